//! Who has which Ethernet address: one bounded table for ARP and NDP, with the states of RFC 4861 §7.3.2.
//!
//! Invariants: entries, and what waits in them, are bounded. An entry through which something was sent of late is not
//! replaced, whatever arrives. A place in the table together with its generation names one address for ever, so that a
//! connection finds its neighbour without a search.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use demi_api::memalloc::BufMut;
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use hashbrown::HashMap;
use siphasher::sip::SipHasher13;

use super::config::IpConfig;
use crate::device::Checksum;

/// Time between two questions: RFC 1122 §2.3.2.1, RFC 4861 §10.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Questions without an answer after which a neighbour is taken to be away.
const TRIES: u8 = 3;
/// For how long a neighbour that is used again may show that it is there before it is asked.
const FIRST_PROBE: Duration = Duration::from_secs(5);
/// Entries among which one to be replaced is looked for.
const SAMPLE: usize = 256;
/// An entry through which something was sent since is in use.
const IN_USE: Duration = Duration::from_secs(30);

/// A keyed hash: who does not know the key cannot make entries collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(u64, u64);

impl Keyed {
    pub(crate) fn new(rng: &mut fastrand::Rng) -> Keyed {
        Keyed(rng.u64(..), rng.u64(..))
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// Names a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    index: u32,
    generation: u32,
}

/// A packet that lacks nothing but the receiver's Ethernet address.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) head: BufMut,
    pub(super) body: SgArray,
    pub(super) checksum: Checksum,
}

impl Waiting {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// How to go on with a packet.
pub(super) enum Sending {
    /// Send it there.
    To([u8; 6], Waiting),
    /// It waits. The neighbour is to be asked now, by all.
    Ask,
    /// It waits.
    Wait,
    /// The place names another neighbour by now.
    Gone(Waiting),
}

/// What a timer calls for.
pub(super) enum Due {
    /// Ask: this Ethernet address, or everyone.
    Ask(IpAddr, Option<[u8; 6]>),
    /// The neighbour did not answer; this could not be sent.
    Failed(IpAddr, VecDeque<Waiting>),
}

/// What a neighbour says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Advert {
    pub(super) mac: Option<[u8; 6]>,
    /// It answers a question of ours, so that both directions work.
    pub(super) solicited: bool,
    /// The Ethernet address replaces another.
    pub(super) replaces: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not known and not asked for.
    Idle,
    /// Asked for; packets wait.
    Incomplete,
    /// Known to be there until the entry's time.
    Reachable,
    /// Was there.
    Stale,
    /// Was there and is in use; asked at the entry's time.
    Delay,
    /// Being asked.
    Probe,
}

#[derive(Debug)]
struct Entry {
    addr: IpAddr,
    generation: u32,
    state: State,
    mac: [u8; 6],
    /// What the state says.
    until: Instant,
    /// When something was last sent through it, once something was.
    used: Option<Instant>,
    /// When it was last heard of, or made.
    heard: Instant,
    tries: u8,
    waiting: VecDeque<Waiting>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Neighbours {
    entries: Vec<Entry>,
    index: HashMap<IpAddr, u32, Keyed>,
    max: usize,
    queue_frames: usize,
    queue_bytes: usize,
    /// Bytes that wait in all entries.
    waiting: usize,
    reachable: Duration,
    /// Not after the earliest timer.
    due: Option<Instant>,
    /// Where the look at the timers goes on, and the earliest of those that were seen on the way.
    cursor: usize,
    seen: Option<Instant>,
    /// Where the search for an entry to be replaced goes on.
    hand: usize,
    /// Packets dropped since they waited with too many others.
    pub(super) overflows: u64,
    /// Entries replaced by others.
    pub(super) evictions: u64,
    /// Entries not made since all are in use.
    pub(super) refusals: u64,
}

impl Neighbours {
    pub(super) fn new(config: &IpConfig, rng: &mut fastrand::Rng) -> Neighbours {
        Neighbours {
            entries: Vec::new(),
            index: HashMap::with_capacity_and_hasher(config.neighbours_max, Keyed::new(rng)),
            max: config.neighbours_max,
            queue_frames: config.neighbour_queue,
            queue_bytes: config.neighbour_queue_bytes,
            waiting: 0,
            // RFC 4861 §6.3.2: not the same for all hosts, lest they ask at the same times.
            reachable: config.neighbour_timeout().mul_f64(0.5 + rng.f64()),
            due: None,
            cursor: 0,
            seen: None,
            hand: 0,
            overflows: 0,
            evictions: 0,
            refusals: 0,
        }
    }

    /// Where an address is in the table, now at the latest. `None`: there are only entries in use.
    pub(super) fn place(&mut self, addr: IpAddr, now: Instant) -> Option<Place> {
        let index = match self.index.get(&addr) {
            Some(index) => *index,
            None => self.insert(addr, now, true)?,
        };
        Some(Place { index, generation: self.entries[index as usize].generation })
    }

    /// The neighbour's Ethernet address, if nothing is to be done first.
    #[inline(always)]
    pub(super) fn reachable(&mut self, place: Place, now: Instant) -> Option<[u8; 6]> {
        let entry = self.entries.get_mut(place.index as usize)?;
        let known = if entry.state == State::Reachable {
            now <= entry.until
        } else {
            // Whatever comes of being in use is a matter of time.
            matches!(entry.state, State::Delay | State::Probe)
        };
        if entry.generation != place.generation || !known {
            return None;
        }
        entry.used = Some(now);
        Some(entry.mac)
    }

    /// Sends through an entry in whichever state.
    #[cold]
    pub(super) fn send(&mut self, place: Place, now: Instant, packet: Waiting) -> Sending {
        let Some(entry) = self.entries.get_mut(place.index as usize) else { return Sending::Gone(packet) };
        if entry.generation != place.generation {
            return Sending::Gone(packet);
        }
        entry.used = Some(now);
        match entry.state {
            State::Reachable if now <= entry.until => {}
            State::Reachable | State::Stale => {
                entry.state = State::Delay;
                entry.until = now + FIRST_PROBE;
                let until = entry.until;
                self.wake(until);
            }
            State::Delay | State::Probe => {}
            State::Idle => {
                entry.state = State::Incomplete;
                entry.tries = 1;
                entry.until = now + RETRY;
                let until = entry.until;
                self.wake(until);
                self.queue(place.index, packet);
                return Sending::Ask;
            }
            State::Incomplete => {
                self.queue(place.index, packet);
                return Sending::Wait;
            }
        }
        Sending::To(self.entries[place.index as usize].mac, packet)
    }

    /// Something else than a question shows that packets reach the neighbour: RFC 4861 §7.3.1.
    #[inline]
    pub(super) fn confirm(&mut self, place: Place, now: Instant) {
        let Some(entry) = self.entries.get_mut(place.index as usize) else { return };
        let known = !matches!(entry.state, State::Idle | State::Incomplete);
        if entry.generation == place.generation && known {
            entry.state = State::Reachable;
            entry.until = now + self.reachable;
        }
    }

    /// The neighbour asked us, or announced itself: RFC 826, RFC 4861 §7.2.3. An entry is made only if `create`.
    /// What waited for it is returned, to be sent.
    pub(super) fn heard(
        &mut self,
        addr: IpAddr,
        mac: [u8; 6],
        create: bool,
        now: Instant,
    ) -> VecDeque<Waiting> {
        let index = match self.index.get(&addr) {
            Some(index) => *index,
            None if create => match self.insert(addr, now, false) {
                Some(index) => index,
                None => return VecDeque::new(),
            },
            None => return VecDeque::new(),
        };
        let entry = &mut self.entries[index as usize];
        entry.heard = now;
        let known = !matches!(entry.state, State::Idle | State::Incomplete);
        if known && entry.mac == mac {
            return VecDeque::new();
        }
        entry.mac = mac;
        entry.state = State::Stale;
        self.release(index)
    }

    /// The neighbour answered, or changed: RFC 4861 §7.2.5. What waited for it is returned, to be sent.
    pub(super) fn advertised(&mut self, addr: IpAddr, advert: Advert, now: Instant) -> VecDeque<Waiting> {
        let Some(&index) = self.index.get(&addr) else { return VecDeque::new() };
        let entry = &mut self.entries[index as usize];
        let until = now + self.reachable;
        // An answer counts as one only if there was a question.
        let solicited = advert.solicited && matches!(entry.state, State::Incomplete | State::Probe);
        entry.heard = now;
        match (entry.state, advert.mac) {
            (State::Idle | State::Incomplete, None) => return VecDeque::new(),
            // Not asked: it may say so, but that does not show that it hears us.
            (State::Idle, Some(mac)) => {
                entry.mac = mac;
                entry.state = State::Stale;
            }
            (State::Incomplete, Some(mac)) => {
                entry.mac = mac;
                entry.state = if solicited { State::Reachable } else { State::Stale };
                entry.until = until;
            }
            (State::Reachable | State::Stale | State::Delay | State::Probe, mac) => {
                let other = mac.filter(|mac| *mac != entry.mac);
                match other {
                    // Another Ethernet address, which does not claim to replace the one that is known.
                    Some(_) if !advert.replaces => {
                        if entry.state == State::Reachable {
                            entry.state = State::Stale;
                        }
                        return VecDeque::new();
                    }
                    Some(mac) => entry.mac = mac,
                    None => {}
                }
                if solicited {
                    entry.state = State::Reachable;
                    entry.until = until;
                } else if other.is_some() {
                    entry.state = State::Stale;
                }
            }
        }
        self.release(index)
    }

    /// One thing that is due. Call until there is none, or again later: all calls of one round together look once at
    /// each entry.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Due> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        while let Some(entry) = self.entries.get_mut(self.cursor) {
            let index = self.cursor as u32;
            self.cursor += 1;
            if !matches!(entry.state, State::Incomplete | State::Delay | State::Probe) {
                continue;
            }
            if entry.until > now {
                self.seen = earlier(self.seen, entry.until);
                continue;
            }
            let (state, tries) = match entry.state {
                State::Incomplete => (State::Incomplete, entry.tries),
                State::Probe => (State::Probe, entry.tries),
                State::Delay | State::Idle | State::Reachable | State::Stale => (State::Probe, 0),
            };
            if tries >= TRIES {
                entry.state = State::Idle;
                let addr = entry.addr;
                return Some(Due::Failed(addr, self.release(index)));
            }
            entry.state = state;
            entry.tries = tries + 1;
            entry.until = now + RETRY;
            self.seen = earlier(self.seen, entry.until);
            let known = (state == State::Probe).then_some(entry.mac);
            return Some(Due::Ask(entry.addr, known));
        }
        self.cursor = 0;
        self.due = self.seen.take();
        None
    }

    /// For how long an answer is good, as a router says: RFC 4861 §6.3.4.
    pub(super) fn set_reachable(&mut self, time: Duration) {
        self.reachable = time.clamp(Duration::from_secs(1), Duration::from_secs(3600));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether an address is known, of late or not.
    #[cfg(test)]
    pub(super) fn mac(&self, addr: IpAddr) -> Option<[u8; 6]> {
        let entry = &self.entries[*self.index.get(&addr)? as usize];
        (!matches!(entry.state, State::Idle | State::Incomplete)).then_some(entry.mac)
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Notes a timer, for the look at them that may be under way as well.
    fn wake(&mut self, until: Instant) {
        self.due = earlier(self.due, until);
        self.seen = earlier(self.seen, until);
    }

    fn queue(&mut self, index: u32, packet: Waiting) {
        let waiting = &mut self.entries[index as usize].waiting;
        // RFC 1122 §2.3.2.2: it is the latest that should be kept.
        if waiting.len() == self.queue_frames
            && let Some(oldest) = waiting.pop_front()
        {
            self.waiting -= oldest.len();
            self.overflows += 1;
        }
        if self.waiting + packet.len() > self.queue_bytes {
            self.overflows += 1;
            return;
        }
        self.waiting += packet.len();
        waiting.push_back(packet);
    }

    fn release(&mut self, index: u32) -> VecDeque<Waiting> {
        let released = std::mem::take(&mut self.entries[index as usize].waiting);
        self.waiting -= released.iter().map(Waiting::len).sum::<usize>();
        released
    }

    /// Makes an entry; `ours`: in order to send. What others ask for never replaces an entry of ours.
    fn insert(&mut self, addr: IpAddr, now: Instant, ours: bool) -> Option<u32> {
        if self.entries.len() < self.max {
            let index = self.entries.len() as u32;
            self.entries.push(Entry {
                addr,
                generation: 0,
                state: State::Idle,
                mac: [0; 6],
                until: now,
                used: None,
                heard: now,
                tries: 0,
                waiting: VecDeque::new(),
            });
            self.index.insert(addr, index);
            return Some(index);
        }
        let Some(index) = self.expendable(now, ours) else {
            self.refusals += 1;
            return None;
        };
        self.evictions += 1;
        self.overflows += self.release(index).len() as u64;
        let entry = &mut self.entries[index as usize];
        self.index.remove(&entry.addr);
        entry.addr = addr;
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Idle;
        entry.used = None;
        entry.heard = now;
        self.index.insert(addr, index);
        Some(index)
    }

    /// The entry to be replaced: first those never used, then those that did not answer, then those not used of late,
    /// and of each kind the oldest. In a large table that is so among a part of it, so that a flood costs little time;
    /// all are looked at only if none of that part can go, and only for us.
    fn expendable(&mut self, now: Instant, ours: bool) -> Option<u32> {
        let rank = |entry: &Entry| match (entry.used, entry.state) {
            (None, _) => Some((0, entry.heard)),
            (Some(_), _) if !ours => None,
            (Some(used), State::Idle | State::Incomplete) => Some((1, used)),
            (Some(used), _) => (now.since(used) > IN_USE).then_some((2, used)),
        };
        let count = self.entries.len();
        let best = |range: &mut dyn Iterator<Item = usize>| {
            let ranked = range.filter_map(|index| Some((rank(&self.entries[index])?, index)));
            ranked.min().map(|(_, index)| index as u32)
        };
        let part = count.min(SAMPLE);
        let found = best(&mut (self.hand..self.hand + part).map(|index| index % count));
        let found = found.or_else(|| (ours && part < count).then(|| best(&mut (0..count))).flatten());
        self.hand = (self.hand + part) % count;
        found
    }
}

/// The earlier of a time, if there is one, and another.
pub(super) fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}
