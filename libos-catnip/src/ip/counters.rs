//! What is counted.

/// Declares counters with the names under which they are shown.
macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// The counters.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $($(#[$doc])* pub(super) $field: u64,)*
        }

        impl Counters {
            pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
                $(visit($name, self.$field);)*
            }
        }
    };
}

counters! {
    /// Datagrams handed to a transport protocol.
    delivered: "ip_delivered",
    /// Packets to ourselves.
    looped: "ip_looped",
    /// Frames to others, or of protocols that are not spoken here.
    foreign: "ip_foreign",
    /// Headers that contradict themselves or their frame.
    malformed: "ip_malformed",
    /// IPv4 headers, or ICMP messages, with a wrong checksum.
    bad_checksum: "ip_bad_checksum",
    /// Packets from, or to, addresses that cannot be.
    martian: "ip_martian",
    /// Packets with a source route.
    source_routed: "ip_source_routed",
    /// Fragments received.
    fragments: "ip_fragments_received",
    /// Fragmented packets sent.
    fragmented: "ip_fragmented",
    /// Packets that were to be sent and had no way to go.
    unroutable: "ip_unroutable",
    /// Packets that were to be sent and are larger than the path carries.
    too_big: "ip_too_big",
    /// Packets given up since a neighbour did not answer.
    unanswered: "ip_neighbour_unanswered",
    /// Packets dropped for want of memory, or of room in a queue.
    no_memory: "ip_no_memory",
    /// Answers not given, as the device does not keep up.
    unanswering: "ip_answers_dropped",
    /// Somebody else uses an address of ours.
    conflicts: "ip_address_conflicts",
    /// Questions for Ethernet addresses.
    solicitations: "ip_solicitations_sent",
    /// ARP and NDP messages that are not taken seriously.
    neighbour_refused: "ip_neighbour_messages_refused",
    /// DHCP messages that are not for us, or that do not add up.
    dhcp_refused: "dhcp_messages_refused",
    /// ICMP echo requests answered.
    echoes: "icmp_echo_replies_sent",
    /// ICMP errors sent.
    errors_sent: "icmp_errors_sent",
    /// ICMP errors not sent, as there were too many.
    errors_limited: "icmp_errors_limited",
    /// ICMP errors received.
    errors_received: "icmp_errors_received",
    /// ICMP messages of kinds that are not heeded, redirects among them.
    icmp_ignored: "icmp_ignored",
}
