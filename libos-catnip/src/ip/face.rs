//! Small questions that transport protocols ask of the IP layer.

use super::{Ip, Problem, ProblemKind, Unreachable};

impl Ip {
    /// Whether a transport checksum may be left at the pseudo-header's sum, for the device to complete.
    #[inline]
    pub(crate) fn completes_checksums(&self) -> bool {
        self.tx_checksum
    }

    /// Changes whenever a packet may be for somebody else than before, or go another way.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.routes.epoch()
    }

    /// Notes a packet that has found its connection without help from here.
    #[inline]
    pub(crate) fn count_delivered(&mut self) {
        self.counters.delivered += 1;
    }

    /// Whether [`next`](Ip::next) has something.
    #[inline]
    pub(crate) fn has_internal(&self) -> bool {
        !self.looped.is_empty() || !self.problems.is_empty()
    }
}

impl Problem {
    /// Whether the other host is there and wants none of it: RFC 1122 §4.2.3.9.
    pub(crate) fn is_refusal(&self) -> bool {
        match self.kind {
            ProblemKind::Unreachable(Unreachable::Port | Unreachable::Protocol) => true,
            ProblemKind::Unreachable(Unreachable::Net | Unreachable::Host | Unreachable::Prohibited)
            | ProblemKind::TooBig(_)
            | ProblemKind::TimeExceeded => false,
        }
    }
}
