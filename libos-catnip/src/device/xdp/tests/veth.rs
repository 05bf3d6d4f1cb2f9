//! Frames between two devices, and between a device and packet sockets, over a veth pair.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use demi_api::memalloc::Heap;
use demi_api::sga::SgArray;
use demi_api::time::Instant as Now;
use rustix::io::{Errno, read, write};

use super::net::{MACS, Net, config, heap};
use crate::device::xdp::socket::Binding;
use crate::device::xdp::{CopyMode, Mode, Xdp, XdpConfig};
use crate::device::{BURST, DeviceCx, Frame, Queue};

/// A device with its heap, inbox and outbox.
pub(super) struct End {
    pub(super) xdp: Xdp,
    pub(super) inbox: Vec<Frame>,
    pub(super) outbox: VecDeque<Frame>,
    pub(super) heap: Heap,
}

impl End {
    pub(super) fn open(net: &Net, side: usize, config: &XdpConfig) -> End {
        let heap = heap(32);
        let xdp = net.open(side, &heap, config).unwrap();
        End { xdp, inbox: Vec::new(), outbox: VecDeque::new(), heap }
    }

    /// One turn, as the wait loop makes it.
    pub(super) fn turn(&mut self) {
        let cx = DeviceCx { heap: &self.heap, now: Now::default() };
        self.xdp.reclaim();
        let before = self.inbox.len();
        let count = self.xdp.rx_burst(&cx, &mut self.inbox);
        assert!(count <= BURST && self.inbox.len() == before + count);
        self.xdp.tx_burst(&cx, &mut self.outbox);
    }

    /// Serves these queues; what has come by those that are given up is in the inbox.
    pub(super) fn serve(&mut self, queues: &[u32]) -> bool {
        let cx = DeviceCx { heap: &self.heap, now: Now::default() };
        self.xdp.serve(&cx, queues, &mut self.inbox)
    }

    pub(super) fn send(&mut self, bytes: &[u8], cuts: &[usize]) {
        self.outbox.push_back(Frame::new(cut(&self.heap, bytes, cuts)));
    }

    /// Turns until there are `count` frames in the inbox.
    pub(super) fn receive(&mut self, count: usize) -> Vec<Frame> {
        self.receive_from(None, count)
    }

    /// The same, while another end transmits.
    pub(super) fn receive_from(&mut self, mut other: Option<&mut End>, count: usize) -> Vec<Frame> {
        let start = Instant::now();
        while self.inbox.len() < count {
            self.turn();
            if let Some(other) = &mut other {
                other.turn();
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{} of {count} frames", self.inbox.len());
        }
        self.inbox.drain(..count).collect()
    }

    pub(super) fn count(&self, wanted: &str) -> u64 {
        let mut found = None;
        self.xdp.counters(&mut |name, value| {
            if name == wanted {
                found = Some(value);
            }
        });
        found.unwrap()
    }

    /// Nothing was copied, refused, dropped or misunderstood.
    pub(super) fn assert_clean(&self) {
        self.xdp.counters(&mut |name, value| {
            let harmless =
                ["xdp_rx_frames", "xdp_tx_frames", "xdp_tx_segments", "xdp_tx_kicks", "xdp_queues"]
                    .contains(&name);
            // The fill ring is empty between two turns of a busy device; what counts is what is lost.
            assert!(harmless || name == "xdp_kernel_fill_ring_empty" || value == 0, "{name} = {value}");
        });
    }

    /// Closes the device; the heap must be as it was before it was opened.
    pub(super) fn close(self) {
        let End { xdp, inbox, outbox, heap } = self;
        drop((inbox, outbox, xdp));
        let stats = heap.stats();
        assert_eq!((stats.bytes_live, stats.pools.superblocks), (0, 0));
    }
}

/// `bytes` in segments that end at `cuts`.
fn cut(heap: &Heap, bytes: &[u8], cuts: &[usize]) -> SgArray {
    let mut sga = SgArray::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        sga.push(heap.copy_from(&bytes[from..to]).unwrap()).unwrap();
        from = to;
    }
    sga
}

/// An IPv4 frame of `len` bytes from one end to the other, unlike any other of another seed.
pub(super) fn frame(from: usize, len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len.max(34)];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes[..6].copy_from_slice(&MACS[1 - from]);
    bytes[6..12].copy_from_slice(&MACS[from]);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14] = 0x45;
    bytes[20..24].copy_from_slice(&[0, 0, 64, 253]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, 1 + from as u8, 10, 0, 0, 2 - from as u8]);
    bytes.truncate(len);
    bytes
}

fn both(net: &Net, change: impl Fn(&mut XdpConfig)) -> [End; 2] {
    [0, 1].map(|side| {
        let mut config = config(side);
        change(&mut config);
        End::open(net, side, &config)
    })
}

/// Frames of all of `lens` both ways at once, cut at random places; none is lost, copied or changed.
fn exchange(ends: &mut [End; 2], lens: impl Iterator<Item = usize>) {
    let mut rng = fastrand::Rng::with_seed(1);
    for len in lens {
        for (from, end) in ends.iter_mut().enumerate() {
            let mut cuts: Vec<_> = (0..rng.usize(..8)).map(|_| rng.usize(..=len)).collect();
            cuts.sort_unstable();
            end.send(&frame(from, len, (len + from) as u64), &cuts);
        }
        let [one, two] = ends;
        for (from, got) in [(1, one.receive_from(Some(two), 1)), (0, two.receive_from(Some(one), 1))] {
            let data = &got[0].data;
            assert_eq!(data.len(), len);
            assert!(*data == frame(from, len, (len + from) as u64)[..], "{len} bytes from {from}");
            assert!(data.segments()[0].len() >= len.min(128));
        }
    }
    ends.iter().for_each(End::assert_clean);
}

#[test]
fn every_size_both_ways_in_every_mode() {
    let Some(net) = Net::new(1500, 1) else { return };
    for (mode, copy, generic) in [
        (Mode::Auto, CopyMode::Auto, true),
        (Mode::Generic, CopyMode::Copy, true),
        (Mode::Native, CopyMode::Auto, false),
    ] {
        let mut ends = both(&net, |config| (config.mode, config.copy) = (mode, copy));
        for end in &ends {
            assert_eq!((end.xdp.is_generic(), end.xdp.is_zero_copy()), (generic, false));
            assert!(end.xdp.caps().zero_copy && end.xdp.caps().mtu == 1500);
        }
        assert_eq!(ends.each_ref().map(|end| end.xdp.caps().mac), MACS);
        exchange(&mut ends, 34..=1514);
        ends.into_iter().for_each(End::close);
    }
}

#[test]
fn jumbo_frames_arrive_in_several_segments() {
    let Some(net) = Net::new(9000, 1) else { return };
    for mode in [Mode::Generic, Mode::Native] {
        let mut ends = both(&net, |config| config.mode = mode);
        exchange(&mut ends, (34..=9014).step_by(61).chain([2048, 3840, 3841, 4096, 7680, 7681, 9013, 9014]));
        // One segment longer than a chunk, cut on its way out; three pieces on their way in.
        let [one, two] = &mut ends;
        one.send(&frame(0, 9014, 5), &[]);
        let got = two.receive_from(Some(one), 1);
        assert!(got[0].data.segments().len() >= 3 && got[0].data == frame(0, 9014, 5)[..]);
        drop(got);
        ends.iter().for_each(End::assert_clean);
        ends.into_iter().for_each(End::close);
    }
}

#[test]
fn the_largest_frames_that_veth_has_are_put_together() {
    let Some(net) = Net::new(65535, 1) else { return };
    let mut ends = both(&net, |config| config.mode = Mode::Generic);
    let [one, two] = &mut ends;
    for len in [40_000, 60_000, 65_536, 65_549] {
        one.send(&frame(0, len, len as u64), &[100]);
        let got = two.receive_from(Some(one), 1);
        assert!(got[0].data == frame(0, len, len as u64)[..]);
    }
    // More pieces than an array holds segments.
    assert!(two.count("xdp_rx_copied") == 4 && two.count("xdp_rx_dropped") == 0);
    ends.into_iter().for_each(End::close);
}

#[test]
fn packet_sockets_see_what_is_sent_and_the_device_what_they_send() {
    let Some(net) = Net::new(1500, 1) else { return };
    let mut end = End::open(&net, 0, &config(0));
    let socket = net.packets(1);
    let mut buffer = [0; 2048];
    for len in 14..=1514 {
        end.send(&frame(0, len, 3), &[len / 3, len / 2]);
        let start = Instant::now();
        let got = loop {
            end.turn();
            match read(&socket, &mut buffer) {
                Ok(got) => break got,
                Err(Errno::AGAIN) => assert!(start.elapsed() < Duration::from_secs(5), "{len} bytes"),
                Err(errno) => panic!("{errno}"),
            }
        };
        assert!(buffer[..got] == frame(0, len, 3)[..], "{len} bytes, {got} arrived");
    }
    for len in 34..=1514 {
        assert_eq!(write(&socket, &frame(1, len, 4)), Ok(len));
        assert!(end.receive(1)[0].data == frame(1, len, 4)[..], "{len} bytes");
    }
    // Without an IPv4 header there is no destination to match.
    for len in 14..34 {
        assert_eq!(write(&socket, &frame(1, len, 4)), Ok(len));
    }
    assert_eq!(write(&socket, &frame(1, 34, 4)), Ok(34));
    assert_eq!(end.receive(1)[0].data.len(), 34);
    end.assert_clean();
    end.close();
}

#[test]
fn rings_wrap_many_times_and_lose_nothing() {
    const COUNT: u64 = 100_000;
    const WINDOW: u64 = 48;
    let Some(net) = Net::new(1500, 1) else { return };
    let mut ends = both(&net, |config| (config.rx_buffers, config.tx_segments) = (128, 64));
    let [one, two] = &mut ends;
    let (mut sent, mut got) = (0, 0);
    let start = Instant::now();
    let template = frame(0, 200, 0);
    while got < COUNT {
        while sent < COUNT && sent - got < WINDOW {
            let mut bytes = template.clone();
            bytes[40..48].copy_from_slice(&u64::to_be_bytes(sent));
            one.send(&bytes, &[60]);
            sent += 1;
        }
        one.turn();
        two.turn();
        for frame in two.inbox.drain(..) {
            assert_eq!(frame.data.segments()[0][40..48], u64::to_be_bytes(got));
            got += 1;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{got} of {sent}");
    }
    assert_eq!((one.count("xdp_tx_frames"), one.count("xdp_tx_segments")), (COUNT, 2 * COUNT));
    ends.iter().for_each(End::assert_clean);
    ends.into_iter().for_each(End::close);
}

#[test]
fn a_burst_larger_than_the_kernel_takes_at_once_goes_out_whole() {
    let Some(net) = Net::new(1500, 1) else { return };
    let mut ends = both(&net, |_| {});
    let [one, two] = &mut ends;
    for at in 0..200 {
        one.send(&frame(0, 100, at), &[]);
    }
    one.turn();
    assert_eq!((one.outbox.len(), one.count("xdp_tx_frames")), (0, 200));
    for (at, got) in two.receive(200).iter().enumerate() {
        assert!(got.data == frame(0, 100, at as u64)[..], "frame {at}");
    }
    one.turn();
    assert_eq!(one.xdp.tx.under_way(), 0);
    ends.into_iter().for_each(End::close);
}

#[test]
fn a_full_ring_leaves_the_rest_with_the_caller() {
    let Some(net) = Net::new(1500, 1) else { return };
    let mut end = End::open(&net, 0, &XdpConfig { tx_segments: 64, ..config(0) });
    net.ip(0, "link set v0 down");
    for at in 0..100 {
        end.send(&frame(0, 100, at), &[]);
    }
    end.turn();
    end.turn();
    assert_eq!(end.outbox.len(), 36);
    // It is looked after again soon, but less and less often.
    let mut last = Now::default();
    for _ in 0..20 {
        let due = end.xdp.next_deadline().unwrap();
        assert!(due > last && due.since(last) <= Duration::from_millis(16));
        end.xdp.rx_burst(&DeviceCx { heap: &end.heap, now: due }, &mut end.inbox);
        last = due;
    }
    assert_eq!(end.xdp.next_deadline().unwrap().since(last), Duration::from_millis(16));
    // What is under way is given back when the device is closed.
    end.close();
}

#[test]
fn other_bindings_cut_and_copy_as_they_must() {
    let Some(net) = Net::new(3000, 1) else { return };
    let mut ends = both(&net, |_| {});
    let [one, two] = &mut ends;
    let mut check = |one: &mut End, cuts: &[usize], copied: u64, segments: u64| {
        let before = (one.count("xdp_tx_copied"), one.count("xdp_tx_segments"));
        one.send(&frame(0, 3000, segments), cuts);
        assert!(two.receive_from(Some(one), 1)[0].data == frame(0, 3000, segments)[..]);
        let after = (one.count("xdp_tx_copied"), one.count("xdp_tx_segments"));
        assert_eq!((after.0 - before.0, after.1 - before.1), (copied, segments), "{cuts:?}");
    };
    assert!(one.xdp.caps().mtu == 3000);
    check(one, &[], 0, 1);
    check(one, &[10, 20, 30, 40, 50, 60, 70], 0, 8);
    // Without gathering, what lies in several pieces becomes one.
    one.xdp.tx.binding.gather = false;
    assert!(one.xdp.caps().mtu == 3000);
    check(one, &[], 0, 1);
    check(one, &[100], 1, 1);
    // What a NIC reads by itself does not cross pages, as some objects of 3072 bytes do.
    one.xdp.tx.binding = Binding { zero_copy: true, gather: true };
    let mut seen = [false; 2];
    let mut held = Vec::new();
    for _ in 0..8 {
        let probe = one.heap.alloc(3000).unwrap();
        let crosses = probe.offset() % 4096 + 3000 > 4096;
        // The next object of its size is the one last freed.
        drop(probe);
        check(one, &[], 0, 1 + u64::from(crosses));
        seen[usize::from(crosses)] = true;
        held.push(one.heap.alloc(3000).unwrap());
    }
    assert_eq!(seen, [true; 2]);
    drop(held);
    ends.into_iter().for_each(End::close);
}
