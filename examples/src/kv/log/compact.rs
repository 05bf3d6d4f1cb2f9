//! Room in the log. When dead records take too much of it, every key is written to its end once more, and then
//! what is before the first of these records is discarded.
//!
//! Invariants: from its beginning to any place, the log holds the state at that place, whatever of a compaction it
//! holds; from the first element of a complete one, too. What clients add is refused early enough that there is always
//! room to write all keys once.

use std::time::Duration;

use demi_api::{Demikernel, LibOs, Position};

use super::super::store::Store;
use super::{Log, Room};

/// Bytes of keys and values that are written to an element.
const STEP: u64 = 64 << 10;

/// How long to wait for memory.
const STARVED: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Compaction {
    /// Number and position of the first element that stays.
    first: u64,
    from: Option<Position>,
    /// The slot to go on with; none when all keys are written.
    next: Option<usize>,
    /// The slot behind the last.
    end: usize,
    /// Bytes to be written, and bytes that are.
    size: u64,
    written: u64,
    /// What was appended when it began; and of what has been since, what is of this compaction.
    began_at: u64,
    own: u64,
    /// What clients may append until it is complete.
    spare: u64,
    /// Numbers of its newest elements.
    newest: [u64; 2],
    starved: bool,
}

impl Compaction {
    /// An element has reached its place.
    #[inline]
    pub(super) fn is_at(&mut self, number: u64, position: Position) {
        if number == self.first {
            self.from = Some(position);
        }
    }

    pub(super) fn patience(&self) -> Duration {
        if self.starved { STARVED } else { Duration::ZERO }
    }

    /// Whether clients have used up more of the room than it has come forward.
    fn is_behind(&self, appended: u64) -> bool {
        let used = (appended - self.began_at).saturating_sub(self.own);
        u128::from(self.written) * u128::from(self.spare) < 2 * u128::from(used) * u128::from(self.size)
    }
}

/// Bytes of the log that writing `live` bytes of records may take.
fn rewritten(live: u64) -> u64 {
    live + live / 8
}

/// Room that is left for what cannot be foreseen.
fn margin(room: &Room) -> u64 {
    (16 * room.segment).min(room.total / 8)
}

/// Whether a compaction is worth its while: the log is several times larger than what it holds, or room is short.
fn is_due(room: &Room, live: u64) -> bool {
    let (used, needed) = (room.total - room.free, rewritten(live));
    let many_times = used >= 4 * live + room.total / 16;
    let short = room.free < needed + margin(room) + (live / 2).max(room.total / 16);
    room.total > 0 && (many_times || short && used > needed + (live / 8).max(room.total / 32))
}

/// How many bytes may be added, so that there is room for a compaction now and for the next.
fn allowance(room: &Room, live: u64) -> u64 {
    let now = room.free.saturating_sub(rewritten(live) + margin(room)) / 2;
    now.min((room.total / 8 * 3).saturating_sub(live))
}

impl Log {
    /// Looks how much room there is, and says how much may be added.
    pub(crate) fn look<L: LibOs>(&mut self, demi: &Demikernel<L>, store: &mut Store) {
        self.room = Room::look(demi);
        let left = match &self.compaction {
            Some(compaction) => compaction.size.saturating_sub(compaction.written),
            None => store.live(),
        };
        let live = store.live();
        let Some(journal) = &mut store.journal else { return };
        self.looked_at = journal.appended;
        let allowed = allowance(&self.room, left).min((self.room.total / 8 * 3).saturating_sub(live));
        journal.allow(allowed);
    }

    /// One step. It is larger where clients have appended much, so that it is complete before room is short.
    pub(super) fn compact<L: LibOs>(&mut self, demi: &Demikernel<L>, store: &mut Store) {
        let Some(journal) = &store.journal else { return };
        let appended = journal.appended;
        if appended - self.looked_at >= (self.room.total / 256).clamp(64 << 10, 1 << 20) {
            self.look(demi, store);
            if self.compaction.is_none() && is_due(&self.room, store.live()) {
                self.begin_compaction(store);
            }
        }
        let Some(mut compaction) = self.compaction.take() else { return };
        if self.go_on(demi, store, &mut compaction) {
            self.compaction = Some(compaction);
        }
    }

    fn begin_compaction(&mut self, store: &mut Store) {
        let Some(journal) = &mut store.journal else { return };
        if journal.failure().is_some() || journal.prepare_copy(0, 0).is_err() {
            return;
        }
        let first = journal.close();
        journal.mark();
        let began_at = journal.appended;
        let (end, size) = (store.begin_rewrite(), store.live());
        let spare = self.room.free.saturating_sub(rewritten(size) + margin(&self.room));
        tracing::debug!(live = size, room = ?self.room, "compaction begins");
        self.compaction = Some(Compaction {
            first,
            from: None,
            next: Some(0),
            end,
            size,
            written: 0,
            began_at,
            own: 0,
            spare,
            newest: [0; 2],
            starved: false,
        });
    }

    /// False: it has ended.
    fn go_on<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        store: &mut Store,
        compaction: &mut Compaction,
    ) -> bool {
        while let Some(next) = compaction.next {
            let Some(journal) = &mut store.journal else { return false };
            let appended = journal.appended;
            if !journal.has_settled(compaction.newest[0]) && !compaction.is_behind(appended) {
                return true;
            }
            journal.close();
            let before = journal.appended;
            let step = STEP.min(self.room.segment / 2);
            let progress = store.rewrite(next, compaction.end, step);
            let Some(journal) = &mut store.journal else { return false };
            let number = journal.close();
            compaction.newest = [compaction.newest[1], number - 1];
            compaction.own += journal.appended - before;
            compaction.written += progress.bytes;
            compaction.starved = progress.next == Some(next);
            compaction.next = progress.next;
            if !self.push(demi, store) {
                return false;
            }
            if compaction.next.is_some() && progress.bytes == 0 {
                return true;
            }
        }
        let settled = store.journal.as_ref().is_some_and(|journal| journal.has_settled(compaction.newest[1]));
        let (true, Some(from)) = (settled, compaction.from) else { return true };
        match demi.discard(self.qd, from) {
            Ok(()) => self.compactions += 1,
            Err(error) => tracing::warn!(%error, "the log could not be compacted"),
        }
        self.look(demi, store);
        tracing::debug!(room = ?self.room, "compaction has ended");
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    fn room(used: u64, total: u64) -> Room {
        Room { total: total * SEGMENT, free: (total - used) * SEGMENT, segment: SEGMENT }
    }

    #[test]
    fn a_log_of_dead_records_is_compacted_and_a_full_one_of_live_records_is_not() {
        assert!(!is_due(&room(10, 1000), 0));
        assert!(is_due(&room(63, 1000), 0));
        assert!(!is_due(&room(300, 1000), 100 * SEGMENT));
        assert!(is_due(&room(463, 1000), 100 * SEGMENT));
        assert!(!is_due(&room(420, 1000), 370 * SEGMENT), "nothing would be won");
    }

    #[test]
    fn whatever_is_added_there_is_room_to_write_all_once() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let total = rng.u64(4..2000);
            let used = rng.u64(0..total);
            let room = room(used, total);
            let live = rng.u64(0..=used * SEGMENT);
            let added = allowance(&room, live);
            if added > 0 {
                let (free, live) = (room.free - added, live + added);
                assert!(free + added / 8 >= rewritten(live), "{room:?}, {live} live, {added} added");
                assert!(live <= room.total / 8 * 3);
            }
        }
    }
}
