//! What is lost so that no acknowledgement tells of it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use demi_libos_catnip::device::fault::Faults;

use crate::world::{Watched, World};

const LIMIT: Duration = Duration::from_secs(9);

#[test]
fn rfc8985_7_2_a_probe_finds_that_a_whole_burst_is_lost() {
    // From the second segment on the peer answers at once, so that no answer says something long before the
    // retransmission timer expires.
    for segments in 2..=8 {
        let lose = Rc::new(Cell::new(0));
        let faults = Faults { delay: Duration::from_millis(1), ..Faults::default() };
        let world = World::with(segments as u64, &faults, 1500, "", |_, device| {
            let lose = Rc::clone(&lose);
            Watched::before(device, move |outbox| {
                let count = outbox.len().min(lose.get());
                outbox.drain(..count);
                lose.set(lose.get() - count);
            })
        });
        let [near, _far] = world.connected(LIMIT);
        // The handshake took as long as it took to find the neighbour, too; this is what a round trip takes.
        let push = |len: usize| {
            let sga = world.hosts[0].copy_from(&vec![1; len]).unwrap();
            let push = world.hosts[0].push(near, sga).unwrap();
            world.run(LIMIT, |world| world.take(0, push).is_some());
        };
        push(2 * 1448);
        lose.set(segments);
        let begin = world.now();
        push(segments * 1448);
        let took = world.now() - begin;
        assert_eq!(lose.get(), 0);
        assert_eq!(world.counter(0, "tcp_tail_loss_probes"), 1, "{segments}");
        assert_eq!(world.counter(0, "tcp_timeouts"), 0, "{segments}");
        assert!(took < Duration::from_millis(30), "{segments} segments took {took:?}");
    }
}
