//! Over a veth pair: the kernel beside a device, sleep, hoarded frames, several queues.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use demi_api::time::Instant as Now;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::read;

use super::net::{MACS, Net, config, heap};
use super::veth::{End, frame};
use crate::device::xdp::{Mode, Xdp, XdpConfig};
use crate::device::{Checksum, DeviceCx, Frame, Queue};

#[test]
fn the_kernel_keeps_all_that_is_not_ours() {
    let Some(net) = Net::new(1500, 1) else { return };
    net.ip(0, "addr add 10.0.0.11/24 dev v0");
    net.ip(1, "addr add 10.0.0.12/24 dev v0");
    for mode in [Mode::Generic, Mode::Native] {
        let mut end = End::open(&net, 0, &XdpConfig { mode, ..config(0) });
        // A connection of the kernel's, there and back, as ssh would make it.
        let listener = net.inside(0, || TcpListener::bind("10.0.0.11:0").unwrap());
        let mut client = net.inside(1, || TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 1000]).unwrap();
        let mut bytes = [0; 1000];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 1000]);
        end.turn();
        assert_eq!(end.inbox.len(), 0);

        // The other end's kernel talks to our address: it asks for our Ethernet address, then sends.
        net.ip(1, "neigh flush all");
        let socket = net.inside(1, || UdpSocket::bind("10.0.0.12:5000").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(b"to the device", "10.0.0.1:7").unwrap();
        let question = end.receive(1).remove(0).data.to_vec();
        assert_eq!(question[12..14], [8, 6]);
        let mut answer = question.clone();
        answer[..6].copy_from_slice(&question[6..12]);
        answer[6..12].copy_from_slice(&MACS[0]);
        answer[21] = 2;
        answer[22..28].copy_from_slice(&MACS[0]);
        answer[28..32].copy_from_slice(&[10, 0, 0, 1]);
        answer[32..42].copy_from_slice(&question[22..32]);
        end.send(&answer, &[]);
        let datagram = end.receive(1).remove(0).data.to_vec();
        assert_eq!(datagram[42..55], *b"to the device");
        // Back, with addresses and ports exchanged, which leaves the IP header's checksum as it is, and none for UDP.
        let mut back = datagram.clone();
        back[..6].copy_from_slice(&datagram[6..12]);
        back[6..12].copy_from_slice(&datagram[..6]);
        back[26..30].copy_from_slice(&datagram[30..34]);
        back[30..34].copy_from_slice(&datagram[26..30]);
        back[34..36].copy_from_slice(&datagram[36..38]);
        back[36..38].copy_from_slice(&datagram[34..36]);
        back[40..42].copy_from_slice(&[0, 0]);
        end.send(&back, &[42]);
        end.turn();
        let mut bytes = [0; 64];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..len], from.to_string()), (&b"to the device"[..], "10.0.0.1:7".to_owned()));
        end.close();
    }
}

#[test]
fn a_shared_address_loses_only_its_ports() {
    let Some(net) = Net::new(1500, 1) else { return };
    net.ip(0, "addr add 10.0.0.1/24 dev v0");
    net.ip(1, "addr add 10.0.0.2/24 dev v0");
    let mut end = End::open(&net, 0, &XdpConfig { ports: Some(vec![7000..=7001]), ..config(0) });
    let kernels = net.inside(0, || UdpSocket::bind("10.0.0.1:22").unwrap());
    kernels.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let peer = net.inside(1, || UdpSocket::bind("10.0.0.2:0").unwrap());
    // The kernel answers for the address.
    peer.send_to(b"for the kernel", "10.0.0.1:22").unwrap();
    let mut bytes = [0; 64];
    assert_eq!(kernels.recv(&mut bytes).unwrap(), 14);
    peer.send_to(b"for the device", "10.0.0.1:7001").unwrap();
    let got = end.receive(1).remove(0).data.to_vec();
    assert_eq!(got[42..56], *b"for the device");
    // From now on, the other way round.
    end.xdp.retarget(&XdpConfig { ports: Some(vec![22..=22]), ..config(0) }).unwrap();
    peer.send_to(b"for the device", "10.0.0.1:22").unwrap();
    assert_eq!(end.receive(1)[0].data.len(), 56);
    assert!(end.xdp.retarget(&XdpConfig { addresses: Vec::new(), ..config(0) }).is_err());
    end.close();
}

/// The next frame at a packet socket, which may take a moment.
fn read_soon(socket: &OwnedFd) -> Vec<u8> {
    let wait = Timespec { tv_sec: 5, tv_nsec: 0 };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait)).unwrap();
    let mut buffer = [0; 2048];
    let len = read(socket, &mut buffer).unwrap();
    buffer[..len].to_vec()
}

/// Whether the device's descriptor becomes readable within `wait`.
fn readable(xdp: &Xdp, wait: Duration) -> bool {
    let fd = xdp.wait_fd();
    let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait)).unwrap() == 1
}

#[test]
fn a_sleeper_wakes_for_a_frame() {
    for queues in [1, 2] {
        let Some(net) = Net::new(1500, queues) else { return };
        let mut one = End::open(&net, 0, &config(0));
        let mut two = End::open(&net, 1, &config(1));
        for round in 0..20 {
            let cx = DeviceCx { heap: &two.heap, now: Now::default() };
            assert!(two.xdp.arm(&cx));
            assert!(!readable(&two.xdp, Duration::ZERO));
            one.send(&frame(0, 100, round), &[]);
            one.turn();
            assert!(readable(&two.xdp, Duration::from_secs(5)));
            let cx = DeviceCx { heap: &two.heap, now: Now::default() };
            assert!(!two.xdp.arm(&cx), "there is a frame already");
            assert!(two.receive(1)[0].data == frame(0, 100, round)[..]);
            // A deadline as long as something is under way, and none when nothing is.
            one.turn();
            assert_eq!((one.xdp.tx.under_way(), one.xdp.next_deadline()), (0, None));
        }
        one.close();
        two.close();
    }
}

#[test]
fn hoarded_frames_are_copied_and_the_device_goes_on() {
    const COUNT: usize = 1000;
    let Some(net) = Net::new(1500, 1) else { return };
    let mut one = End::open(&net, 0, &config(0));
    let mut two = End::open(&net, 1, &XdpConfig { rx_buffers: 128, ..config(1) });
    for at in 0..COUNT {
        one.send(&frame(0, 300, at as u64), &[]);
        one.turn();
        two.turn();
    }
    let hoard = two.receive(COUNT);
    for (at, got) in hoard.iter().enumerate() {
        assert!(got.data == frame(0, 300, at as u64)[..], "frame {at}");
    }
    let copied = two.count("xdp_rx_copied");
    assert!((COUNT as u64 - 128..COUNT as u64).contains(&copied), "{copied} copied");
    assert_eq!((two.count("xdp_rx_dropped"), two.count("xdp_kernel_rx_dropped")), (0, 0));

    // A heap that is full as well loses frames, but goes on once there is room.
    let filling: Vec<_> = [128 << 10, 4096, 512, 300]
        .into_iter()
        .flat_map(|len| std::iter::from_fn(|| two.heap.alloc(len).ok()).collect::<Vec<_>>())
        .collect();
    for at in 0..100 {
        one.send(&frame(0, 300, at), &[]);
        one.turn();
        two.turn();
    }
    let start = Instant::now();
    while two.count("xdp_rx_dropped") < 100 {
        assert!(start.elapsed() < Duration::from_secs(5));
        two.turn();
    }
    assert!(two.inbox.is_empty());
    drop((filling, hoard));
    one.send(&frame(0, 300, 5), &[]);
    assert!(two.receive_from(Some(&mut one), 1)[0].data == frame(0, 300, 5)[..]);
    let before = two.count("xdp_rx_copied");
    for at in 0..200 {
        one.send(&frame(0, 300, at), &[]);
        assert!(two.receive_from(Some(&mut one), 1)[0].data == frame(0, 300, at)[..]);
    }
    assert!(two.count("xdp_rx_copied") - before < 64, "buffers are handed out again");
    one.close();
    two.close();
}

#[test]
fn what_the_device_cannot_send_as_it_is() {
    let Some(net) = Net::new(1500, 1) else { return };
    let mut end = End::open(&net, 0, &config(0));
    let socket = net.packets(1);
    let foreign = heap(2);
    let bytes = frame(0, 1000, 1);
    let mut mixed = demi_api::sga::SgArray::from(end.heap.copy_from(&bytes[..100]).unwrap());
    mixed.push(foreign.copy_from(&bytes[100..]).unwrap()).unwrap();
    end.outbox.push_back(Frame::new(mixed));
    for refused in [frame(0, 13, 0), vec![0; 1515]] {
        end.send(&refused, &[]);
    }
    let data = end.heap.copy_from(&bytes).unwrap().into();
    end.outbox.push_back(Frame { data, checksum: Checksum::Partial { start: 34, at: 50 } });
    end.turn();
    assert!(end.outbox.is_empty());
    assert_eq!(
        (end.count("xdp_tx_copied"), end.count("xdp_tx_refused"), end.count("xdp_tx_frames")),
        (1, 3, 1)
    );
    assert_eq!(read_soon(&socket), bytes);
    drop(foreign);
    end.close();
}

#[test]
fn what_cannot_be_copied_holds_nothing_up() {
    let Some(net) = Net::new(1500, 1) else { return };
    let mut end = End::open(&net, 0, &config(0));
    let socket = net.packets(1);
    let foreign = heap(2);
    let (lost, bytes) = (frame(0, 1000, 1), frame(0, 1000, 2));
    end.outbox.push_back(Frame::new(foreign.copy_from(&lost).unwrap().into()));
    end.outbox.push_back(Frame::new(end.heap.copy_from(&bytes).unwrap().into()));
    let heap = end.heap.clone();
    let full: Vec<_> = [256 << 10, 16 << 10, 1024]
        .into_iter()
        .flat_map(|size| std::iter::from_fn(|| heap.alloc(size).ok()).collect::<Vec<_>>())
        .collect();
    end.turn();
    assert_eq!((end.count("xdp_tx_no_memory"), end.count("xdp_tx_frames"), end.outbox.len()), (1, 1, 0));
    assert_eq!(read_soon(&socket), bytes);
    drop((full, heap, foreign));
    end.close();
}

#[test]
fn all_queues_are_served_or_those_that_are_named() {
    let Some(net) = Net::new(1500, 4) else { return };
    let mut all = End::open(&net, 0, &config(0));
    for queue in 0..4 {
        let mut sender = End::open(&net, 1, &XdpConfig { queues: vec![queue], ..config(1) });
        for at in 0..500 {
            sender.send(&frame(1, 100, at), &[50]);
            assert!(all.receive_from(Some(&mut sender), 1)[0].data == frame(1, 100, at)[..]);
        }
        // And back, to a queue that the sender serves or to the kernel.
        all.send(&frame(0, 100, 9), &[]);
        all.turn();
        if queue == 0 {
            assert!(sender.receive(1)[0].data == frame(0, 100, 9)[..]);
        }
        sender.close();
    }
    all.assert_clean();
    all.close();

    // In the stack, veth's frames do not say faithfully which queue they came by.
    let mut some = End::open(&net, 0, &XdpConfig { queues: vec![3, 1], mode: Mode::Native, ..config(0) });
    let kernel = net.packets(0);
    for (queue, served) in [(0, false), (1, true), (2, false), (3, true)] {
        let mut sender = End::open(&net, 1, &XdpConfig { queues: vec![queue], ..config(1) });
        sender.send(&frame(1, 99, 1), &[]);
        sender.turn();
        if served {
            assert_eq!(some.receive(1)[0].data.len(), 99);
        } else {
            assert_eq!(read_soon(&kernel), frame(1, 99, 1));
        }
        some.turn();
        assert!(some.inbox.is_empty());
    }
    some.close();
    let refused = net.open(0, &heap(8), &XdpConfig { queues: vec![4], ..config(0) });
    assert!(refused.unwrap_err().to_string().contains("no queue 4: there are 0 to 3"));
}

#[test]
fn what_one_device_received_another_sends_on_from_where_it_lies() {
    let Some(net) = Net::new(1500, 1) else { return };
    let Some(far) = Net::new(1500, 1) else { return };
    // In at one wire, out at the other, on one heap.
    let mut middle = End::open(&net, 0, &config(0));
    let mut out = far.open(0, &middle.heap, &config(0)).unwrap();
    let mut source = End::open(&net, 1, &config(1));
    let sink = far.packets(1);
    let mut outbox = std::collections::VecDeque::new();
    for at in 0..2000 {
        source.send(&frame(1, 400, at), &[]);
        let mut got = middle.receive_from(Some(&mut source), 1).remove(0);
        // Without its first segment's head, and with another in front.
        got.data.advance(14);
        got.data.push_front(middle.heap.copy_from(&frame(1, 400, at)[..14]).unwrap()).unwrap();
        outbox.push_back(got);
        let cx = DeviceCx { heap: &middle.heap, now: Now::default() };
        out.tx_burst(&cx, &mut outbox);
        assert_eq!(read_soon(&sink), frame(1, 400, at));
        out.reclaim();
    }
    out.counters(&mut |name, value| assert!(name != "xdp_tx_copied" || value == 0));
    middle.assert_clean();
    drop(out);
    middle.close();
    source.close();
}
