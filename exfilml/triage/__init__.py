"""What an analyst asks of a ranked case, answered from the data a site has.

Nothing here touches the network, and nothing here changes a score.
"""
