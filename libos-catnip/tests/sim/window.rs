//! What receivers promise, seen from the wire.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use demi_libos_catnip::device::Frame;
use demi_libos_catnip::device::fault::Faults;

use crate::world::{Watched, World};

const LIMIT: Duration = Duration::from_secs(600);

/// The shift for windows up to a buffer of 1 MiB.
const SHIFT: u32 = 5;

/// A segment as it left a host: its sequence number and length, what it acknowledges, and the window in units.
#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: u32,
    len: u32,
    ack: u32,
    window: u32,
    syn: bool,
}

type Log = Rc<RefCell<Vec<Sent>>>;

fn parse(frame: &Frame) -> Option<Sent> {
    let bytes = frame.data.to_vec();
    let ip = bytes.strip_prefix(&bytes[..12])?.strip_prefix(&[8, 0])?;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let tcp = (ip[9] == 6).then(|| &ip[20..total])?;
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    Some(Sent {
        seq: word(4),
        len: (tcp.len() - usize::from(tcp[12] >> 4) * 4) as u32,
        ack: word(8),
        window: u32::from(u16::from_be_bytes([tcp[14], tcp[15]])),
        syn: tcp[13] & 2 != 0,
    })
}

/// A world whose hosts' segments are noted.
fn noted(faults: &Faults, more: &str) -> (World, [Log; 2]) {
    let logs: [Log; 2] = Default::default();
    let world = World::with(7, faults, 1500, more, |host, device| {
        let log = Rc::clone(&logs[host]);
        Watched::before(device, move |outbox| log.borrow_mut().extend(outbox.iter().filter_map(parse)))
    });
    (world, logs)
}

#[test]
fn rfc9293_3_8_6_the_right_edge_never_moves_back() {
    let (world, logs) = noted(&Faults { delay: Duration::from_micros(50), ..Faults::default() }, "");
    let [near, far] = world.connected(LIMIT);
    let bytes = vec![7; 3 << 20];
    let push = world.hosts[0].push(near, world.hosts[0].copy_from(&bytes).unwrap()).unwrap();
    // Nobody pops: the window drains by segments that are no multiples of its unit.
    let full = world.now() + Duration::from_secs(1);
    world.run(LIMIT, |world| world.now() > full);
    let mut popped = 0;
    let mut pop = None;
    world.run(LIMIT, |world| {
        while popped < bytes.len() {
            let token = *pop.get_or_insert_with(|| world.hosts[1].pop(far).unwrap());
            let Some(done) = world.take(1, token) else { return false };
            popped += done.popped().unwrap().len();
            pop = None;
        }
        true
    });
    world.run(LIMIT, |world| world.take(0, push).is_some());
    let log = logs[1].borrow();
    let mut furthest = None;
    for sent in log.iter().filter(|sent| !sent.syn) {
        let edge = sent.ack.wrapping_add(sent.window << SHIFT);
        let furthest = furthest.get_or_insert(edge);
        let back = furthest.wrapping_sub(edge).cast_signed();
        assert!(back < 1 << SHIFT, "{back} bytes back by {sent:?}");
        if back < 0 {
            *furthest = edge;
        }
    }
    // The sender kept to what it was offered, so nothing had to be sent twice but probes.
    assert!(log.len() > 20);
    assert_eq!(world.counter(0, "tcp_recoveries"), 0);
}

#[test]
fn rfc9293_3_10_7_4_must66_acknowledgements_count_though_the_window_is_used_up() {
    // The first host uses up the second's window of eight segments, of which one is lost. What it acknowledges meanwhile
    // comes from the right edge.
    const WINDOW: usize = 8 * 1448;
    let faults = Faults { drop: vec![6], delay: Duration::from_millis(1), ..Faults::default() };
    let (world, logs) = noted(&faults, &format!("recv_buffer = {WINDOW}"));
    let [near, far] = world.connected(LIMIT);
    let [ours, theirs] = &world.hosts;
    ours.push(near, ours.copy_from(&[1; 2 * WINDOW]).unwrap()).unwrap();
    let reply = theirs.push(far, theirs.copy_from(&[2; 1000]).unwrap()).unwrap();
    world.run(LIMIT, |world| world.take(1, reply).is_some());
    let [ours, theirs] = [logs[0].borrow(), logs[1].borrow()];
    let begin = ours.iter().find(|sent| sent.syn).unwrap().seq + 1;
    let edge = begin + WINDOW as u32;
    assert!(ours.iter().any(|sent| sent.seq == edge && sent.len == 0), "{ours:#?}");
    assert!(theirs.iter().any(|sent| sent.ack < edge && sent.ack > begin), "{theirs:#?}");
    assert_eq!(theirs.iter().filter(|sent| sent.len > 0).count(), 1, "{theirs:#?}");
    assert_eq!(world.counter(1, "tcp_challenges"), 0);
}
