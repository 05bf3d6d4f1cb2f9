//! What `docs/catmint-wire.md` says of regions, by hand, and then what nobody allows.

use std::net::SocketAddr;
use std::time::{Duration, Instant as Time};

use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::time::Clock;
use demi_api::{Addr, Domain, QDesc, SeekTo, SgArray, SocketKind};
use demi_libos_catmint::CatmintSection;
use demi_libos_catmint::device::{Atomic, DeviceCx, Event, Fault, Qp, RdmaDevice, Remote, Then};

use super::place::{Demi, Link, Place, create};

struct Stranger {
    device: Box<dyn RdmaDevice>,
    heap: Heap,
    clock: Clock,
}

impl Stranger {
    fn new(place: &Place) -> Stranger {
        let config = HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false };
        let device = CatmintSection::load(&place.config()).unwrap().soft.open(1).unwrap();
        Stranger { device, heap: Heap::new(&config).unwrap(), clock: Clock::start() }
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut dyn RdmaDevice, &DeviceCx<'_>) -> T) -> T {
        call(&mut *self.device, &DeviceCx { heap: &self.heap, now: self.clock.now() })
    }

    /// Drives both until the stranger is told something that is looked for.
    #[track_caller]
    fn until<T>(&mut self, demi: &Demi, mut look: impl FnMut(&Event) -> Option<T>) -> T {
        let limit = Time::now() + Duration::from_secs(30);
        let mut events = Vec::new();
        while Time::now() < limit {
            demi.poll().unwrap();
            self.with(|device, cx| {
                device.flush(cx);
                device.poll(cx, &mut events);
            });
            if let Some(found) = events.drain(..).find_map(|event| look(&event)) {
                return found;
            }
        }
        panic!("nothing happens");
    }

    /// Asks for a region: queue pair, place and length; or the reason of the refusal.
    fn ask(&mut self, demi: &Demi, at: SocketAddr, name: &[u8]) -> Result<(Qp, Remote, u64), u16> {
        let hello = [&b"DEMI\x01\0\x02\0"[..], name].concat();
        let qp = self.with(|device, cx| device.connect(cx, at, &hello)).unwrap();
        self.until(demi, |event| match event {
            Event::Established { hello, .. } => {
                assert_eq!(hello[..8], *b"DEMI\x01\0\0\0");
                let word = |at: usize| u64::from_le_bytes(hello[at..at + 8].try_into().unwrap());
                let key = u32::from_le_bytes(hello[24..28].try_into().unwrap());
                Some(Ok((qp, Remote { addr: word(8), key }, word(16))))
            }
            Event::Refused { hello, .. } => Some(Err(u16::from_le_bytes([hello[6], hello[7]]))),
            _ => None,
        })
    }

    /// Posts what must fail, and sees the queue pair go.
    #[track_caller]
    fn fails(&mut self, demi: &Demi, qp: Qp, post: impl FnOnce(&mut dyn RdmaDevice, &DeviceCx<'_>)) -> Fault {
        self.with(post);
        let mut fault = None;
        self.until(demi, |event| {
            match event {
                Event::Sent { result: Ok(()), .. }
                | Event::Read { result: Ok(()), .. }
                | Event::Fetched { result: Ok(_), .. } => panic!("it was carried out: {event:?}"),
                Event::Sent { result: Err(why), .. }
                | Event::Read { result: Err(why), .. }
                | Event::Fetched { result: Err(why), .. } => fault = fault.or(Some(*why)),
                Event::Gone { qp: gone, why } if *gone == qp => return Some(fault.unwrap_or(*why)),
                _ => {}
            }
            None
        })
    }
}

fn content(demi: &Demi, qd: QDesc) -> Vec<u8> {
    demi.seek(qd, SeekTo::Head).unwrap();
    let token = demi.pop_n(qd, 1 << 16).unwrap();
    demi.wait(token, None).unwrap().popped().unwrap().to_vec()
}

fn fill(demi: &Demi, qd: QDesc, bytes: &[u8]) {
    let token = demi.push(qd, demi.copy_from(bytes).unwrap()).unwrap();
    demi.wait(token, None).unwrap().pushed().unwrap();
}

/// Makes a connection, so that there are receives.
fn meet_itself(demi: &Demi, place: &Place) {
    let addr: Addr = format!("{}:80", place.ip).parse().unwrap();
    let [listener, near] = [(); 2].map(|()| demi.socket(Domain::Inet, SocketKind::Stream).unwrap());
    demi.bind(listener, addr.clone()).unwrap();
    demi.listen(listener, 1).unwrap();
    let connect = demi.connect(near, addr).unwrap();
    demi.wait(connect, Some(Duration::from_secs(30))).unwrap().result.unwrap();
}

#[test]
fn nothing_outside_of_a_region_is_reached() {
    for link in [Link::Shm, Link::Udp] {
        let folder = tempfile::tempdir().unwrap();
        let [place, elsewhere] = [(); 2].map(|()| Place::new(link, folder.path()));
        let demi = place.demi();
        let open = demi.open(place.path("open?size=4096"), &create()).unwrap();
        let closed = demi.open(place.path("closed?size=4096&access=r"), &create()).unwrap();
        fill(&demi, open, &[1; 4096]);
        fill(&demi, closed, &[2; 4096]);
        meet_itself(&demi, &place);
        let at: SocketAddr = format!("{}:7000", place.ip).parse().unwrap();
        let mut stranger = Stranger::new(&elsewhere);
        assert_eq!(stranger.ask(&demi, at, b"nothing"), Err(5));
        assert_eq!(stranger.ask(&demi, at, b""), Err(4));
        let bad = SgArray::copy_from(&stranger.heap, &[0xbb; 64]).unwrap();
        let ask = |stranger: &mut Stranger, name: &[u8]| {
            let (qp, place, len) = stranger.ask(&demi, at, name).unwrap();
            assert_eq!((len, place.addr % 8), (4096, 0));
            (qp, place)
        };

        for offset in [4096, 4096 - 63, 0_u64.wrapping_sub(1), 0_u64.wrapping_sub(64), 1 << 44] {
            let (qp, place) = ask(&mut stranger, b"open");
            let to = Remote { addr: place.addr.wrapping_add(offset), ..place };
            let data = bad.clone();
            let fault = stranger
                .fails(&demi, qp, |device, cx| device.write(cx, qp, to, data, Then::Tell(1)).unwrap());
            assert_eq!(fault, Fault::RemoteAccess, "a write at {offset:#x}");
            let (qp, _) = ask(&mut stranger, b"open");
            let fault = stranger.fails(&demi, qp, |device, cx| {
                let into = cx.heap.alloc(64).unwrap();
                device.read(cx, qp, to, into, 1).unwrap();
            });
            assert_eq!(fault, Fault::RemoteAccess, "a read at {offset:#x}");
            let (qp, _) = ask(&mut stranger, b"open");
            let word = Remote { addr: to.addr & !7, ..to };
            let fault = stranger.fails(&demi, qp, |device, cx| {
                let at = if offset == 4096 - 63 { Remote { addr: place.addr + 4096, ..place } } else { word };
                device.atomic(cx, qp, at, Atomic::FetchAdd(1), 1).unwrap();
            });
            assert_eq!(fault, Fault::RemoteAccess, "a word at {offset:#x}");
        }
        let (qp, place) = ask(&mut stranger, b"closed");
        let data = bad.clone();
        let fault =
            stranger.fails(&demi, qp, |device, cx| device.write(cx, qp, place, data, Then::Tell(1)).unwrap());
        assert_eq!(fault, Fault::RemoteAccess, "it may be read only");
        let (qp, place) = ask(&mut stranger, b"closed");
        let fault = stranger.fails(&demi, qp, |device, cx| {
            device.atomic(cx, qp, place, Atomic::FetchAdd(1), 1).unwrap();
        });
        assert_eq!(fault, Fault::RemoteAccess);
        for key in 1..9 {
            let (qp, place) = ask(&mut stranger, b"open");
            let to = Remote { key: place.key.wrapping_add(key << 28), ..place };
            let data = bad.clone();
            stranger.fails(&demi, qp, |device, cx| device.write(cx, qp, to, data, Then::Tell(1)).unwrap());
        }
        // A message, where none is sent, though there are receives for peers.
        let (qp, _) = ask(&mut stranger, b"open");
        stranger.fails(&demi, qp, |device, cx| {
            device.send(cx, qp, b"hello", SgArray::new(), Then::Quiet).unwrap();
        });
        // The key of a region that is closed.
        let (other, place) = ask(&mut stranger, b"open");
        let (_, still) = ask(&mut stranger, b"closed");
        assert_ne!(place.key, still.key);
        assert_eq!(content(&demi, open), [1; 4096]);
        assert_eq!(content(&demi, closed), [2; 4096]);
        demi.close(open).unwrap();
        let gone = stranger.until(&demi, |event| match event {
            Event::Gone { qp, why } if *qp == other => Some(*why),
            _ => None,
        });
        assert_eq!(gone, Fault::Disconnected);
        let (qp, _) = ask(&mut stranger, b"closed");
        stranger.fails(&demi, qp, |device, cx| {
            let into = cx.heap.alloc(8).unwrap();
            device.read(cx, qp, place, into, 1).unwrap();
        });
    }
}
