//! Captures read back, by a small reader of our own and by what tools there are.

use std::process::Command;

use demi_api::memalloc::Heap;
use demi_api::sga::SgArray;

use super::super::fault::tests::{Narrow, frame, heap};
use super::super::kernel::namespace::skip;
use super::super::{Loopback, Wire};
use super::*;

const US: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEM: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame as it was recorded.
#[derive(Debug, PartialEq)]
struct Recorded {
    nanos: u64,
    len: u32,
    outbound: bool,
    bytes: Vec<u8>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Reads a capture, and checks all that is constant about it.
fn read(path: &Path, snap_len: u32) -> Vec<Recorded> {
    let file = std::fs::read(path).unwrap();
    let mut rest = &file[..];
    let mut frames = Vec::new();
    let mut kinds = Vec::new();
    while !rest.is_empty() {
        let len = word(rest, 4) as usize;
        let block = &rest[..len];
        rest = &rest[len..];
        assert_eq!((word(block, len - 4) as usize, len % 4), (len, 0));
        kinds.push(word(block, 0));
        match word(block, 0) {
            0x0a0d_0d0a => assert_eq!((word(block, 8), &block[12..16]), (0x1a2b_3c4d, &[1, 0, 0, 0][..])),
            1 => {
                assert_eq!((&block[8..12], word(block, 12)), (&[1, 0, 0, 0][..], snap_len));
                assert_eq!(block[16..28], [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
            }
            6 => {
                let captured = word(block, 20) as usize;
                let options = &block[28 + captured.next_multiple_of(4)..len - 4];
                assert_eq!((&options[..4], &options[8..]), (&[2, 0, 4, 0][..], &[0; 4][..]));
                assert_eq!(word(block, 8), 0);
                frames.push(Recorded {
                    nanos: u64::from(word(block, 12)) << 32 | u64::from(word(block, 16)),
                    len: word(block, 24),
                    outbound: word(options, 4) == 2,
                    bytes: block[28..28 + captured].to_vec(),
                });
            }
            other => panic!("block type {other:#x}"),
        }
    }
    assert_eq!(kinds[..2], [0x0a0d_0d0a, 1]);
    assert!(kinds[2..].iter().all(|kind| *kind == 6));
    frames
}

struct World {
    heap: Heap,
    dir: tempfile::TempDir,
    us: Pcap<Narrow>,
    them: Loopback,
}

fn world(config: PcapConfig) -> World {
    let dir = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let narrow = Narrow { inner: wire.plug(US, 1500).unwrap(), room: usize::MAX };
    let path = if config.path.as_os_str().is_empty() { dir.path().join("demi.pcapng") } else { config.path };
    let us = Pcap::create(narrow, &PcapConfig { path, ..config }).unwrap();
    World { heap: heap(), dir, us, them: wire.plug(THEM, 1500).unwrap() }
}

fn counter(device: &impl Queue, name: &str) -> u64 {
    super::super::kernel::namespace::counter(device, name)
}

#[test]
fn both_directions_are_read_back_as_they_were() {
    let base = Duration::from_secs(1_700_000_000);
    let World { heap, dir, mut us, mut them } = world(PcapConfig { base, ..PcapConfig::default() });
    let mut expected = Vec::new();
    for n in 0..1500_u64 {
        let now = n * 1_234_567;
        let cx = DeviceCx { heap: &heap, now: Instant::from_nanos(now) };
        let outbound = n % 3 != 0;
        let data = if outbound {
            // In two segments, cut somewhere.
            let mut data = frame(&heap, n, 60 + n as usize % 1455).data;
            let head = data.split_to(20 + n as usize % 40);
            head.into_segments().into_iter().chain(data.into_segments()).collect::<SgArray>()
        } else {
            let mut reply = frame(&heap, n, 60 + n as usize % 1455).data.to_vec();
            reply[..6].copy_from_slice(&US);
            SgArray::copy_from(&heap, &reply).unwrap()
        };
        let bytes = data.to_vec();
        let nanos = base.as_nanos() as u64 + now;
        expected.push(Recorded { nanos, len: bytes.len() as u32, outbound, bytes });
        let mut outbox = VecDeque::from([Frame::new(data)]);
        let mut inbox = Vec::new();
        if outbound {
            assert_eq!(us.tx_burst(&cx, &mut outbox), 1);
            assert_eq!(them.rx_burst(&cx, &mut inbox), 1);
        } else {
            them.tx_burst(&cx, &mut outbox);
            assert_eq!(us.rx_burst(&cx, &mut inbox), 1);
        }
        assert_eq!(inbox[0].data.to_vec(), expected.last().unwrap().bytes);
    }
    let path = us.path().to_owned();
    assert_eq!(counter(&us, "pcap_frames"), 1500);
    drop(us);
    let found = read(&path, 65549);
    assert!(found == expected, "{} of {}", found.len(), expected.len());
    assert_eq!(heap.stats().objects_live, 0);
    read_with_tools(&path, 1500);
    drop(dir);
}

/// Has tcpdump and tshark count the frames, where there are such.
fn read_with_tools(path: &Path, count: usize) {
    for (tool, args) in [("tcpdump", &["-Z", "root", "-n", "-e", "-r"][..]), ("tshark", &["-n", "-r"][..])] {
        match Command::new(tool).args(args).arg(path).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{tool}: {text}");
                let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
                assert!(lines >= count, "{tool} shows {lines} lines: {text}");
            }
            Err(error) => skip("capture read by a tool", &format!("{tool}: {error}: install it")),
        }
    }
}

#[test]
fn frames_are_cut_to_the_snap_length_and_keep_their_own() {
    for snap_len in [0, 1, 14, 59, 60, 61, 64] {
        let World { heap, dir, mut us, .. } = world(PcapConfig { snap_len, ..PcapConfig::default() });
        let cx = DeviceCx { heap: &heap, now: Instant::from_nanos(7) };
        let data = frame(&heap, 5, 60).data;
        us.tx_burst(&cx, &mut VecDeque::from([Frame::new(data.clone())]));
        us.flush();
        let found = read(us.path(), snap_len as u32);
        let bytes = data.to_vec()[..snap_len.min(60)].to_vec();
        assert_eq!(found, [Recorded { nanos: 7, len: 60, outbound: true, bytes }]);
        drop(dir);
    }
}

#[test]
fn only_what_the_device_took_is_recorded_and_the_rest_keeps_its_order() {
    let World { heap, dir: _dir, mut us, mut them } = world(PcapConfig::default());
    let mut outbox: VecDeque<Frame> = (0..100).map(|n| frame(&heap, n, 60)).collect();
    let cx = DeviceCx { heap: &heap, now: Instant::from_nanos(1) };
    let mut inbox = Vec::new();
    for (room, left) in [(0, 100), (40, 60), (32, 28), (1, 27), (100, 0)] {
        us.device_mut().room = room;
        let before = outbox.len();
        assert_eq!(us.tx_burst(&cx, &mut outbox), before - left);
        assert_eq!(outbox.len(), left);
        assert_eq!(counter(&us, "pcap_frames"), 100 - left as u64);
        while them.rx_burst(&cx, &mut inbox) > 0 {}
    }
    us.flush();
    let sent: Vec<Vec<u8>> = read(us.path(), 65549).into_iter().map(|recorded| recorded.bytes).collect();
    assert_eq!(sent, (0..100).map(|n| frame(&heap, n, 60).data.to_vec()).collect::<Vec<_>>());
    assert_eq!(sent, inbox.iter().map(|frame| frame.data.to_vec()).collect::<Vec<_>>());
}

#[test]
fn it_is_written_out_before_sleep_and_in_time() {
    let World { heap, dir: _dir, mut us, .. } = world(PcapConfig::default());
    let at = |millis: u64| DeviceCx { heap: &heap, now: Instant::from_nanos(millis * 1_000_000) };
    let recorded = |us: &Pcap<Narrow>| read(us.path(), 65549).len();
    us.tx_burst(&at(0), &mut VecDeque::from([frame(&heap, 0, 60)]));
    assert_eq!(recorded(&us), 0);
    us.rx_burst(&at(999), &mut Vec::new());
    assert_eq!(recorded(&us), 0);
    us.rx_burst(&at(1000), &mut Vec::new());
    assert_eq!(recorded(&us), 1);
    us.tx_burst(&at(1001), &mut VecDeque::from([frame(&heap, 0, 60)]));
    assert!(us.arm(&at(1001)));
    assert_eq!(recorded(&us), 2);
}

#[test]
fn recording_does_not_make_its_buffers_grow() {
    let World { heap, dir: _dir, mut us, mut them } = world(PcapConfig::default());
    let sizes =
        |us: &Pcap<Narrow>| (us.writer.buffer.capacity(), us.leaving.capacity(), us.offered.capacity());
    let before = sizes(&us);
    let cx = DeviceCx { heap: &heap, now: Instant::from_nanos(1) };
    for n in 0..100 {
        let mut outbox: VecDeque<Frame> = (0..50).map(|m| frame(&heap, 50 * n + m, 1514)).collect();
        us.tx_burst(&cx, &mut outbox);
        let mut inbox = Vec::new();
        while them.rx_burst(&cx, &mut inbox) > 0 {}
    }
    assert_eq!(sizes(&us), before);
    us.flush();
    assert_eq!(read(us.path(), 65549).len(), 5000);
}

#[test]
fn a_file_that_cannot_be_written_ends_the_recording_and_not_the_traffic() {
    let (reader, pipe) = rustix::pipe::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipe)).into();
    let World { heap, dir: _dir, mut us, mut them } = world(PcapConfig { path, ..PcapConfig::default() });
    // Nobody reads any more.
    drop((reader, pipe));
    let cx = DeviceCx { heap: &heap, now: Instant::from_nanos(1) };
    let mut inbox = Vec::new();
    for n in 0..1000 {
        let mut outbox = VecDeque::from([frame(&heap, n, 1514)]);
        assert_eq!(us.tx_burst(&cx, &mut outbox), 1);
        assert_eq!(them.rx_burst(&cx, &mut inbox), 1);
    }
    us.flush();
    assert_eq!(counter(&us, "pcap_failures"), 1);
    assert_eq!(counter(&us, "pcap_missed") + counter(&us, "pcap_frames"), 1000);
    assert_eq!(counter(&us, "pcap_frames"), 0);
    let cx_reply = |bytes: Vec<u8>| VecDeque::from([Frame::new(SgArray::copy_from(&heap, &bytes).unwrap())]);
    let mut reply = frame(&heap, 0, 60).data.to_vec();
    reply[..6].copy_from_slice(&US);
    them.tx_burst(&cx, &mut cx_reply(reply));
    inbox.clear();
    assert_eq!(us.rx_burst(&cx, &mut inbox), 1);
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    for path in ["/nowhere/at/all.pcapng", "/dev/full", ""] {
        let device = Wire::new().plug(US, 1500).unwrap();
        let error =
            Pcap::create(device, &PcapConfig { path: path.into(), ..PcapConfig::default() }).unwrap_err();
        assert!(
            error.to_string().contains(path) && error.to_string().contains("choose another path"),
            "{error}"
        );
    }
}
