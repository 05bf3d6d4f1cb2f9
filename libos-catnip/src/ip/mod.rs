//! Ethernet, ARP and NDP, IPv4 and IPv6, ICMP, fragments, routes, address configuration.
