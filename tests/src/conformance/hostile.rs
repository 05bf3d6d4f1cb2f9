//! Numbers that name nothing, for every call.

use std::time::Duration;

use demi_api::graph::frame::Codec;
use demi_api::{Addr, Error, OptionName, QDesc, QToken, SeekTo, Shutdown, SocketOption};

use super::rig::{Harness, Rig};

/// Checks that every call that takes a descriptor refuses this one, and gives arrays back.
#[track_caller]
pub fn every_call_refuses<H: Harness>(rig: &Rig<H>, qd: QDesc, addr: &Addr) {
    let demi = &rig.demi;
    let bad = Some(Error::BadDescriptor);
    let refused = demi.push(qd, rig.sga(b"back")).unwrap_err();
    assert_eq!((Some(refused.error), refused.sga.to_vec()), (bad.clone(), b"back".to_vec()));
    let refused = demi.push_to(qd, rig.sga(b"back"), addr.clone()).unwrap_err();
    assert_eq!((Some(refused.error), refused.sga.to_vec()), (bad.clone(), b"back".to_vec()));
    let memory = demi.queue().unwrap();
    let results = [
        demi.pop(qd).err(),
        demi.pop_n(qd, 3).err(),
        demi.accept(qd).err(),
        demi.connect(qd, addr.clone()).err(),
        demi.flush(qd).err(),
        demi.compare_and_swap(qd, demi_api::Position(0), 0, 1).err(),
        demi.fetch_and_add(qd, demi_api::Position(0), 1).err(),
        demi.bind(qd, addr.clone()).err(),
        demi.listen(qd, 1).err(),
        demi.shutdown(qd, Shutdown::Both).err(),
        demi.shutdown(qd, Shutdown::Write).err(),
        demi.set_option(qd, SocketOption::NoDelay(true)).err(),
        demi.option(qd, OptionName::NoDelay).err(),
        demi.local_addr(qd).err(),
        demi.peer_addr(qd).err(),
        demi.seek(qd, SeekTo::Head).err(),
        demi.truncate(qd, demi_api::Position(0)).err(),
        demi.kind(qd).err(),
        demi.merge(qd, memory).err(),
        demi.merge(memory, qd).err(),
        demi.filter(qd, |_| true).err(),
        demi.partition(qd, |_| true).err(),
        demi.map(qd, |_, sga| Ok(sga), |_, sga| Ok(sga)).err(),
        demi.sort(qd, |_, _| std::cmp::Ordering::Equal).err(),
        demi.frame(qd, Codec::Resp).err(),
        demi.qconnect(qd, memory).err(),
        demi.qconnect(memory, qd).err(),
        demi.close(qd).err(),
    ];
    for (call, error) in results.into_iter().enumerate() {
        assert_eq!(error, bad, "call {call} of the list, with {qd:?}");
    }
    // A refused constructor has claimed nothing.
    rig.push(memory, b"x").unwrap();
    assert_eq!(rig.pop(memory).unwrap(), b"x");
    rig.close([memory]);
}

/// Checks that every call that takes a token refuses this one.
#[track_caller]
pub fn every_wait_refuses<H: Harness>(rig: &Rig<H>, token: QToken) {
    let demi = &rig.demi;
    let (zero, mut results) = (Some(Duration::ZERO), Vec::new());
    let set = demi.wait_set().unwrap();
    let refusals = [
        demi.wait(token, None).err(),
        demi.wait(token, zero).err(),
        demi.wait_any(&[token], None).err(),
        demi.wait_all(&[token], &mut results, zero).err(),
        demi.cancel(token).err(),
        set.add(token).err(),
        set.remove(token).err(),
        demi.operation(token).err(),
    ];
    for (call, error) in refusals.into_iter().enumerate() {
        assert_eq!(error, Some(Error::BadToken), "call {call} of the list, with {token}");
    }
    assert!(results.is_empty());
}

/// Descriptors that were never given out.
pub fn random_descriptors_are_refused<H: Harness>(rig: &Rig<H>) {
    let addr: Addr = "127.0.0.1:1".parse().unwrap();
    let (near, far) = rig.connected();
    let open = [near.raw(), far.raw()];
    for raw in [u32::MAX, i32::MAX as u32, 1 << 31, 1, 2, 3, 5, 6, 7, 4000, 4001, 4002, 4003] {
        if !open.contains(&raw) {
            every_call_refuses(rig, QDesc::from_raw(raw), &addr);
        }
    }
    rig.push(near, b"untouched").unwrap();
    assert_eq!(rig.pop_exactly(far, 9), b"untouched");
    rig.close([near, far]);
}

/// Tokens that were never given out.
pub fn random_tokens_are_refused<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let pop = rig.demi.pop(queue).unwrap();
    for raw in [0, 1, u64::MAX, pop.raw() ^ 1, pop.raw() + (1 << 32), pop.raw() ^ (1 << 63), 77 << 32] {
        every_wait_refuses(rig, QToken::from_raw(raw));
    }
    rig.push(queue, b"mine").unwrap();
    assert_eq!(rig.popped(pop), b"mine");
    every_wait_refuses(rig, pop);
    rig.close([queue]);
}
