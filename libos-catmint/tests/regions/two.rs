use std::time::{Duration, Instant};

use demi_api::op::Completion;
use demi_api::{Addr, Domain, Done, Error, Position, QDesc, QToken, SeekTo, SocketKind};
use tempfile::TempDir;

use super::place::{Demi, Link, Place, create};

/// An exporter and a user, driven by one thread.
struct Two {
    places: [Place; 2],
    demis: [Demi; 2],
    _folder: TempDir,
}

impl Two {
    fn new(link: Link) -> Two {
        Two::with(link, "")
    }

    /// With more in the section of catmint.
    fn with(link: Link, catmint: &str) -> Two {
        let folder = tempfile::tempdir().unwrap();
        let mut places = [(); 2].map(|()| Place::new(link, folder.path()));
        for place in &mut places {
            place.text = place.text.replace("[catmint]\n", &format!("[catmint]\n{catmint}"));
        }
        let demis = [places[0].demi(), places[1].demi()];
        Two { places, demis, _folder: folder }
    }

    #[track_caller]
    fn wait(&self, who: usize, token: QToken) -> Completion {
        let limit = Instant::now() + Duration::from_secs(30);
        while Instant::now() < limit {
            match self.demis[who].wait(token, Some(Duration::ZERO)) {
                Err(Error::TimedOut) => self.demis.iter().for_each(|demi| demi.poll().unwrap()),
                completion => return completion.unwrap(),
            }
        }
        panic!("{token} does not complete");
    }

    #[track_caller]
    fn push(&self, who: usize, qd: QDesc, bytes: &[u8]) {
        let token = self.demis[who].push(qd, self.demis[who].copy_from(bytes).unwrap()).unwrap();
        self.wait(who, token).pushed().unwrap();
    }

    #[track_caller]
    fn pop(&self, who: usize, qd: QDesc, limit: usize) -> Vec<u8> {
        let token = self.demis[who].pop_n(qd, limit).unwrap();
        self.wait(who, token).popped().unwrap().to_vec()
    }

    /// Both ends of a connection.
    fn connection(&self) -> [QDesc; 2] {
        let addr: Addr = format!("{}:80", self.places[0].ip).parse().unwrap();
        let listener = self.demis[0].socket(Domain::Inet, SocketKind::Stream).unwrap();
        self.demis[0].bind(listener, addr.clone()).unwrap();
        self.demis[0].listen(listener, 1).unwrap();
        let near = self.demis[1].socket(Domain::Inet, SocketKind::Stream).unwrap();
        let connect = self.demis[1].connect(near, addr).unwrap();
        let accept = self.demis[0].accept(listener).unwrap();
        assert!(matches!(self.wait(1, connect).result, Ok(Done::Connected)));
        let (far, _) = self.wait(0, accept).accepted().unwrap();
        [far, near]
    }
}

fn on_both(run: impl Fn(&Two)) {
    [Link::Shm, Link::Udp].map(Two::new).iter().for_each(run);
}

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|index| ((index * 31) ^ (index >> 8) ^ salt) as u8).collect()
}

#[test]
fn bytes_and_words_of_another_instance() {
    on_both(|two| {
        let here = two.demis[0].open(two.places[0].path("table?size=1000000"), &create()).unwrap();
        let there = two.demis[1].open(two.places[0].path("table"), &Default::default()).unwrap();
        for (salt, len) in [1, 7, 64, 255, 4096, 70_000, 500_000].into_iter().enumerate() {
            let bytes = pattern(len, salt);
            for qd in [(0, here), (1, there)] {
                two.demis[qd.0].seek(qd.1, SeekTo::Position(Position(13))).unwrap();
            }
            two.push(1, there, &bytes);
            assert!(two.pop(0, here, len) == bytes, "{len} bytes");
            two.demis[1].seek(there, SeekTo::Position(Position(13))).unwrap();
            assert!(two.pop(1, there, len) == bytes, "{len} bytes back");
        }
        let at = Position(999_992);
        let add = two.demis[1].fetch_and_add(there, at, 5).unwrap();
        assert_eq!(two.wait(1, add).fetched(), Ok(0));
        let swap = two.demis[1].compare_and_swap(there, at, 5, u64::MAX).unwrap();
        assert_eq!(two.wait(1, swap).fetched(), Ok(5));
        two.demis[0].seek(here, SeekTo::Position(at)).unwrap();
        assert_eq!(two.pop(0, here, 9), [0xff; 8]);
        let missing = two.demis[1].open(two.places[0].path("nothing"), &Default::default()).unwrap();
        let pop = two.demis[1].pop(missing).unwrap();
        assert_eq!(two.wait(1, pop).result.unwrap_err(), Error::NotFound);
    });
}

#[test]
fn what_is_read_is_what_was_there_when_it_was_asked() {
    on_both(|two| {
        let _here = two.demis[0].open(two.places[0].path("table?size=200000"), &create()).unwrap();
        let demi = &two.demis[1];
        let there = demi.open(two.places[0].path("table"), &Default::default()).unwrap();
        // A long read, and at once a write over its end: answers go out packet by packet.
        let mut before = vec![0; 100_000];
        for round in 0..10 {
            demi.seek(there, SeekTo::Head).unwrap();
            let read = demi.pop_n(there, 100_000).unwrap();
            demi.seek(there, SeekTo::Head).unwrap();
            let after = pattern(100_000, round);
            let write = demi.push(there, demi.copy_from(&after).unwrap()).unwrap();
            assert!(two.wait(1, read).popped().unwrap().to_vec() == before, "round {round}");
            two.wait(1, write).pushed().unwrap();
            before = after;
        }
    });
}

#[test]
fn a_revoked_region_harms_no_connection() {
    on_both(|two| {
        let [far, near] = two.connection();
        for round in 0..5 {
            let here = two.demis[0].open(two.places[0].path("table?size=300000"), &create()).unwrap();
            let demi = &two.demis[1];
            let there = demi.open(two.places[0].path("table"), &Default::default()).unwrap();
            let found = demi.flush(there).unwrap();
            assert!(matches!(two.wait(1, found).result, Ok(Done::Flushed)));
            // Several under way, more than a ring has room for.
            let tokens = [
                demi.pop_n(there, 100_000).unwrap(),
                demi.pop_n(there, 100_000).unwrap(),
                demi.push(there, demi.copy_from(&[7; 100_000]).unwrap()).unwrap(),
                demi.fetch_and_add(there, Position(8), 1).unwrap(),
            ];
            for _ in 0..round {
                two.demis.iter().for_each(|demi| demi.poll().unwrap());
            }
            two.demis[0].close(here).unwrap();
            for token in tokens {
                match two.wait(1, token).result {
                    Ok(_) | Err(Error::Revoked) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            demi.seek(there, SeekTo::Head).unwrap();
            let late = demi.pop(there).map(|token| two.wait(1, token).result);
            assert!(matches!(late, Err(Error::Revoked) | Ok(Err(Error::Revoked))), "{late:?}");
            demi.close(there).unwrap();
            for (from, to, qds) in [(0, 1, [far, near]), (1, 0, [near, far])] {
                two.push(from, qds[0], b"alive");
                let pop = two.demis[to].pop(qds[1]).unwrap();
                assert_eq!(two.wait(to, pop).popped().unwrap().to_vec(), b"alive");
            }
        }
        let count = |demi: &Demi, name| {
            let counters = demi.counters().unwrap().libos;
            counters.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
        };
        assert_eq!(count(&two.demis[1], "peers_lost"), Some(0));
        assert_eq!(count(&two.demis[0], "region_users"), Some(5));
    });
}

#[test]
fn an_exporter_that_takes_no_turn_is_given_up_and_forgets_who_asked() {
    for two in [Link::Shm, Link::Udp].map(|link| Two::with(link, "connect_timeout_ms = 200\n")) {
        let _here = two.demis[0].open(two.places[0].path("table?size=64"), &create()).unwrap();
        let demi = &two.demis[1];
        // More often than there may be users.
        for _ in 0..4 {
            let there = demi.open(two.places[0].path("table"), &Default::default()).unwrap();
            let pop = demi.pop(there).unwrap();
            let late = demi.wait(pop, Some(Duration::from_secs(30))).unwrap().result;
            assert_eq!(late.unwrap_err(), Error::TimedOut);
            demi.close(there).unwrap();
        }
        // What it is told of now, it is told of again: that nobody asks any more.
        let begin = Instant::now();
        let found = loop {
            assert!(begin.elapsed() < Duration::from_secs(30), "it takes those for users who have gone");
            two.demis.iter().for_each(|demi| demi.poll().unwrap());
            let there = demi.open(two.places[0].path("table"), &Default::default()).unwrap();
            let flush = demi.flush(there).unwrap();
            match two.wait(1, flush).result {
                Ok(_) => break there,
                Err(Error::InUse(_) | Error::TimedOut) => demi.close(there).unwrap(),
                Err(error) => panic!("{error}"),
            }
        };
        let add = demi.fetch_and_add(found, Position(0), 1).unwrap();
        assert_eq!(two.wait(1, add).fetched(), Ok(0));
    }
}
