"""A small office and a small internet on one machine, recorded with tcpdump."""
