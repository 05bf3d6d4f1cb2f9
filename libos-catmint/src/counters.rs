//! What the libOS counts: plain numbers, added to where the thing happens.

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Counts since the libOS was created.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])+ pub(crate) $name: u64,)+
        }

        impl Counters {
            /// Shows each with its name.
            pub(crate) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
                $(visit(stringify!($name), self.$name);)+
            }
        }
    };
}

counters! {
    /// Messages posted, of every kind.
    sent,
    /// Messages received, of every kind.
    received,
    /// Bytes of arrays sent, in messages and by being read.
    bytes_out,
    /// Bytes of arrays received.
    bytes_in,
    /// Arrays offered to be read.
    offered,
    /// Reads of peers' memory.
    reads,
    /// Small arrays copied as the device would not.
    copied_sends,
    /// Messages copied into a buffer of their own size as nobody was waiting for them.
    copied_receives,
    /// Credits written into a peer's memory: of receives, and of windows.
    receive_credits_written,
    /// The same of windows.
    window_credits_written,
    /// Windows granted by a message, as the peer sleeps.
    window_credits_sent,
    /// Turns that ended with a peer to whom nothing more could be sent before it takes what there is.
    receives_exhausted,
    /// Pushes that had to wait for their connection's window.
    window_exhausted,
    /// Receives that could not be replaced at once, as the heap was short.
    receives_owed,
    /// Queue pairs made.
    peers_met,
    /// Queue pairs lost.
    peers_lost,
    /// Peers that broke the rules, and were disconnected for it.
    peers_expelled,
    /// Requests to connect that were turned away.
    requests_rejected,
    /// Connections made.
    connected,
    /// Connections accepted, by the listener.
    accepted,
    /// Connections refused, by the listener.
    refused,
    /// Empty writes to peers that had been left in peace.
    keepalives,
    /// Closed connections whose pushes the linger time ran out on.
    linger_expired,
}
