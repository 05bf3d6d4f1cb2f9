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
    /// Receives that yielded something.
    recv,
    /// Receives that found nothing: spinning shows here.
    recv_again,
    /// Sends that the kernel took, whole or in part.
    send,
    /// Sends that the kernel had no room for.
    send_again,
    /// Sends that the kernel took in part.
    send_partial,
    /// Times that the kernel was asked which queues are ready.
    epoll_waits,
    /// Answers to that.
    epoll_events,
    /// Registrations and changes of registrations.
    epoll_changes,
    /// Connections accepted.
    accepted,
    /// Connections made.
    connected,
    /// Bytes received.
    bytes_in,
    /// Bytes that the kernel took.
    bytes_out,
    /// Receives copied into a buffer of their own size.
    copied_receives,
    /// Bytes of those.
    copied_bytes,
    /// Arrays written to files.
    file_writes,
    /// Reads from files.
    file_reads,
    /// File calls that blocked the instance.
    file_calls_blocking,
    /// Closed queues whose pushes the linger time ran out on.
    linger_expired,
}
