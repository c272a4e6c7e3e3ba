"""From a ranked case to the analyst's answer."""
