//! The first level of credits: messages of a queue pair, against the receives that the other side keeps for them.
//!
//! Invariant: what this side has sent and not seen taken is never more than the peer keeps room for; so there is always a
//! receive for a message. All counts run modulo 2³².

/// Both directions of one queue pair.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// Receives that the peer keeps for this side.
    theirs: u32,
    sent: u32,
    taken: u32,
    /// Receives that this side keeps for the peer.
    ours: u32,
    received: u32,
    replaced: u32,
    told: u32,
}

impl Allowance {
    /// Of a new queue pair.
    pub(crate) fn new(theirs: u16, ours: u16) -> Allowance {
        let (theirs, ours) = (theirs.into(), ours.into());
        Allowance { theirs, sent: 0, taken: 0, ours, received: 0, replaced: 0, told: 0 }
    }

    /// Learns what the peer keeps.
    pub(crate) fn set_theirs(&mut self, theirs: u16) {
        self.theirs = theirs.into();
    }

    #[inline]
    pub(crate) fn may_send(&self) -> bool {
        self.sent.wrapping_sub(self.taken) < self.theirs
    }

    #[inline]
    pub(crate) fn note_sent(&mut self) {
        self.sent = self.sent.wrapping_add(1);
    }

    /// The peer says how many it has taken. What cannot be, or is old, is not news. Returns whether it was.
    #[inline]
    pub(crate) fn note_taken(&mut self, taken: u32) -> bool {
        let news = taken.wrapping_sub(self.taken);
        let sound = news != 0 && news <= self.sent.wrapping_sub(self.taken);
        if sound {
            self.taken = taken;
        }
        sound
    }

    /// A message has come. False: it was not allowed.
    #[inline]
    pub(crate) fn note_received(&mut self) -> bool {
        self.received = self.received.wrapping_add(1);
        self.received.wrapping_sub(self.told) <= self.ours
    }

    /// The receive of a message has been replaced.
    #[inline]
    pub(crate) fn note_replaced(&mut self) {
        self.replaced = self.replaced.wrapping_add(1);
    }

    /// Whether so much is untold that it should be told by itself.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.replaced.wrapping_sub(self.told) >= self.ours / 2
    }

    /// What to tell the peer, which is then told.
    #[inline]
    pub(crate) fn tell(&mut self) -> u32 {
        self.told = self.replaced;
        self.told
    }

    /// Gives back what was told by a message that was not posted.
    pub(crate) fn untell(&mut self, told: u32) {
        self.told = told;
    }

    pub(crate) fn told(&self) -> u32 {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_beyond_what_was_taken_and_half_is_always_told() {
        let (mut near, mut far) = (Allowance::new(4, 4), Allowance::new(4, 4));
        near.sent = u32::MAX - 1;
        near.taken = u32::MAX - 1;
        for count in [&mut far.received, &mut far.replaced, &mut far.told] {
            *count = u32::MAX - 1;
        }
        for _ in 0..100 {
            let mut sent = 0;
            while near.may_send() {
                near.note_sent();
                assert!(far.note_received());
                sent += 1;
            }
            assert!(sent >= 2, "half of the allowance at least");
            (0..sent).for_each(|_| far.note_replaced());
            assert!(far.is_due());
            assert!(near.note_taken(far.tell()));
        }
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let mut near = Allowance::new(4, 4);
        (0..4).for_each(|_| near.note_sent());
        for absurd in [0, 5, u32::MAX, 1 << 31] {
            assert!(!near.note_taken(absurd), "{absurd}");
        }
        assert!(!near.may_send());
        assert!(near.note_taken(1) && !near.note_taken(1) && near.may_send());
        let mut far = Allowance::new(4, 4);
        assert!((0..4).all(|_| far.note_received()));
        assert!(!far.note_received(), "one more than was allowed");
    }
}
