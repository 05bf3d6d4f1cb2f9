//! What pacing is good for: queues on the way that are shorter than a window.

use std::time::Duration;

use demi_libos_catnip::device::fault::Faults;

use crate::world::World;

const MS: Duration = Duration::from_millis(1);

/// Sends so many bytes from the first host to the second, in bursts of `burst` every `every`, over a link of 100 Mbit/s
/// and 20 ms. Returns what the link's queue has dropped, and the time it took, in milliseconds.
fn send(pacing: bool, queue: usize, total: usize, burst: usize, every: Duration) -> (u64, u128) {
    let faults = Faults { rate: 12_500_000, queue, delay: 10 * MS, ..Faults::default() };
    let more = format!("pacing = {pacing}\nsend_buffer = 4194304\nrecv_buffer = 4194304");
    let world = World::new(1, &faults, 1500, &more);
    let [near, far] = world.connected(Duration::from_secs(10));
    let begin = world.now();
    let (mut left, mut got, mut pushes, mut pop, mut next) = (total, 0, Vec::new(), None, begin);
    world.run(Duration::from_secs(600), |world| {
        pushes.retain(|token| world.take(0, *token).is_none());
        if left > 0 && world.now() >= next && pushes.len() < 40 {
            next = next + every;
            let mut rest = burst.min(left);
            left -= rest;
            while rest > 0 {
                let len = rest.min(50_000);
                let sga = world.hosts[0].copy_from(&vec![5; len]).expect("room in the heap");
                pushes.push(world.hosts[0].push(near, sga).unwrap());
                rest -= len;
            }
        }
        loop {
            let token = *pop.get_or_insert_with(|| world.hosts[1].pop(far).unwrap());
            let Some(done) = world.take(1, token) else { break };
            got += done.popped().unwrap().len();
            pop = None;
        }
        // Something has to happen when the next burst is due.
        if left > 0 && pushes.is_empty() && world.now() < next {
            world.clock.set(next);
        }
        got == total
    });
    let took = (world.now() - begin).as_millis();
    if std::env::var_os("DEMI_SEED").is_some() {
        eprintln!("pacing {pacing}, queue {queue}, bursts of {burst}: {took} ms, {:#?}", world.counters());
    }
    (world.counter(0, "fault_tx_rate_dropped"), took)
}

#[test]
fn pacing_fills_a_link_whose_queue_is_shorter_than_a_window() {
    for total in [4_000_000, 16_000_000] {
        let run = |pacing| send(pacing, 60_000, total, 50_000, Duration::ZERO).1;
        let (took, paced) = (run(false), run(true));
        assert!(paced * 5 < took * 4, "{paced} ms, and {took} ms without pacing");
    }
}

#[test]
fn pacing_keeps_bursts_out_of_a_short_queue() {
    let run = |pacing| send(pacing, 30_000, 40_000_000, 100_000, 50 * MS);
    let ((lost, took), (lost_paced, took_paced)) = (run(false), run(true));
    assert!(lost_paced * 2 < lost, "{lost_paced} lost, and {lost} without pacing");
    // The application sets the pace: the last burst may take a few milliseconds more when it is spread.
    assert!(took_paced * 100 <= took * 101, "{took_paced} ms, and {took} ms without pacing");
}
