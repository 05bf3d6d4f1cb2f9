//! Several devices on the queues of one interface.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::net::{LINK, Net, announce, config, heap};
use super::veth::{End, frame};
use crate::device::xdp::holders::attached;
use crate::device::xdp::interface::Interface;
use crate::device::xdp::{Mode, Xdp, XdpConfig};

fn shared(share: u32) -> XdpConfig {
    XdpConfig { share, mode: Mode::Native, attach_wait_ms: 5000, ..config(0) }
}

fn queues(end: &End) -> Vec<u32> {
    end.xdp.receivers.iter().map(|receiver| receiver.queue).collect()
}

/// Sends a frame by each queue of the peer's, and says who got it.
fn who_gets(net: &Net, ends: &mut [&mut End]) -> Vec<Option<usize>> {
    let mut who = Vec::new();
    for queue in 0..4 {
        let mut sender =
            End::open(net, 1, &XdpConfig { queues: vec![queue], mode: Mode::Native, ..config(1) });
        sender.send(&frame(1, 100, queue.into()), &[]);
        sender.turn();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut got = None;
        for (place, end) in ends.iter_mut().enumerate() {
            end.turn();
            for one in end.inbox.drain(..) {
                assert!(one.data == frame(1, 100, queue.into())[..] && got.is_none());
                got = Some(place);
            }
        }
        who.push(got);
        sender.close();
    }
    who
}

#[test]
fn each_takes_a_part_and_the_program_goes_with_the_last() {
    let Some(net) = Net::new(1500, 4) else { return };
    let index = net.inside(0, || Interface::find(LINK).unwrap().index);
    let program = || net.inside(0, || attached(index).unwrap());
    let mut one = End::open(&net, 0, &shared(2));
    let first = program();
    assert!(first.is_some_and(|(_, in_stack)| !in_stack));
    let mut two = End::open(&net, 0, &shared(2));
    assert_eq!((queues(&one), queues(&two), program()), (vec![0, 2], vec![1, 3], first));
    assert_eq!(who_gets(&net, &mut [&mut one, &mut two]), [Some(0), Some(1), Some(0), Some(1)]);

    // There is no third part, and nobody joins with other rules, or without having been asked to.
    let refused = |config: XdpConfig| {
        net.open(0, &heap(8), &XdpConfig { attach_wait_ms: 20, ..config }).unwrap_err().to_string()
    };
    assert!(refused(shared(2)).contains("2 instances share the interface already"));
    let others = XdpConfig { addresses: vec![[10, 0, 0, 9].into()], ..shared(2) };
    assert!(refused(others).contains("all must have the same user, `addresses`"));
    assert!(refused(config(0)).contains("has another XDP program"));
    assert!(refused(shared(5)).contains("5 instances to `share` 4 receive queues"));
    assert!(refused(XdpConfig { dhcp: true, ..shared(2) }).contains("`dhcp`"));
    assert!(one.xdp.retarget(&shared(2)).unwrap_err().to_string().contains("stays as it is"));

    // The first goes, its queues are the kernel's, and the program stays.
    one.close();
    assert_eq!((program(), who_gets(&net, &mut [&mut two])), (first, vec![None, Some(0), None, Some(0)]));
    let mut back = End::open(&net, 0, &shared(2));
    assert_eq!((queues(&back), program()), (vec![0, 2], first));
    two.close();
    assert_eq!(who_gets(&net, &mut [&mut back]), [Some(0), None, Some(0), None]);
    back.close();
    assert_eq!(program(), None);
    // Alone again.
    End::open(&net, 0, &config(0)).close();
}

#[test]
fn queues_are_taken_on_and_given_up() {
    let Some(net) = Net::new(1500, 4) else { return };
    let mut one = End::open(&net, 0, &shared(4));
    assert_eq!(queues(&one), [0]);
    // From outside of the namespace, where the interface's number may be another's.
    assert!(one.serve(&[0, 1, 2, 3]));
    for round in 0..5 {
        assert_eq!(who_gets(&net, &mut [&mut one]), [Some(0); 4], "{round}");
        assert!(one.serve(&[0, 2]), "its own, and one more");
        let mut two = End::open(&net, 0, &XdpConfig { queues: vec![1, 3], ..shared(4) });
        assert_eq!(who_gets(&net, &mut [&mut one, &mut two]), [Some(0), Some(1), Some(0), Some(1)]);
        assert!(!one.serve(&[0, 1, 2, 3]), "somebody has them");
        assert_eq!(queues(&one), [0, 2]);
        two.close();
        let start = std::time::Instant::now();
        while !one.serve(&[0, 1, 2, 3]) {
            assert!(start.elapsed() < std::time::Duration::from_secs(5));
        }
    }
    // What has come by a queue when it is given up is not lost.
    let mut sender = End::open(&net, 1, &XdpConfig { queues: vec![3], mode: Mode::Native, ..config(1) });
    for at in 0..50 {
        sender.send(&frame(1, 100, at), &[]);
    }
    sender.turn();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(one.serve(&[0, 1, 2]));
    assert_eq!(one.inbox.len(), 50);
    for (at, got) in (0..).zip(one.inbox.drain(..)) {
        assert!(got.data == frame(1, 100, at)[..], "{at}");
    }
    sender.close();
    assert!(one.serve(&[0, 1, 2, 3]));
    // More frames than there are buffers, on a queue that was taken on.
    let mut sender = End::open(&net, 1, &XdpConfig { queues: vec![3], mode: Mode::Native, ..config(1) });
    for at in 0..1000 {
        sender.send(&frame(1, 100, at), &[]);
        assert!(one.receive_from(Some(&mut sender), 1)[0].data == frame(1, 100, at)[..]);
    }
    sender.close();
    one.assert_clean();
    one.close();
    // What is not shared stays as it was opened.
    let mut alone = End::open(&net, 0, &XdpConfig { queues: vec![1], ..config(0) });
    assert!(alone.serve(&[0, 1, 2]));
    assert_eq!(queues(&alone), [1]);
    alone.close();
}

#[test]
fn only_the_same_user_joins() {
    let Some(net) = Net::new(1500, 2) else { return };
    let one = End::open(&net, 0, &shared(2));
    let namespace = net.name(0).to_owned();
    let text = std::thread::spawn(move || {
        // Of this thread only, with all of its capabilities.
        let user = rustix::process::Uid::from_raw(65534);
        let Ok(()) = super::sys::become_user(user) else { return None };
        let opened = super::net::inside(&namespace, || {
            Xdp::open(&heap(8), &XdpConfig { attach_wait_ms: 20, ..shared(2) })
        });
        Some(opened.unwrap_err().to_string())
    });
    match text.join().unwrap() {
        Some(text) => assert!(text.contains("the same user"), "{text}"),
        None => announce("becoming another user is refused"),
    }
    one.close();
}

#[test]
fn who_joins_runs_where_the_first_does_and_may_be_refused() {
    let Some(net) = Net::new(1500, 2) else { return };
    for mode in [Mode::Generic, Mode::Native] {
        let one = End::open(&net, 0, &XdpConfig { mode, ..shared(2) });
        // Whatever it would have chosen.
        let two = End::open(&net, 0, &XdpConfig { mode: Mode::Auto, ..shared(2) });
        let generic = mode == Mode::Generic;
        assert_eq!((one.xdp.is_generic(), two.xdp.is_generic()), (generic, generic));
        two.close();
        let all = capabilities(None).unwrap();
        let text = net.inside(0, || {
            // Of this thread only, and only until it is back.
            let without = all.effective - CapabilitySet::SYS_ADMIN;
            set_capabilities(None, CapabilitySets { effective: without, ..all }).unwrap();
            let opened = Xdp::open(&heap(8), &shared(2));
            set_capabilities(None, all).unwrap();
            opened.unwrap_err().to_string()
        });
        assert!(text.contains("CAP_SYS_ADMIN"), "{text}");
        one.close();
    }
}
