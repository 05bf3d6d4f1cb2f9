//! Controllers that cannot be used say why.

use demi_api::error::Error;

use super::simulated::Simulated;
use super::{BLOCKS, config, heap, start};

type Change = fn(&Simulated);

fn refusal(change: Change) -> String {
    let heap = heap();
    let device = Simulated::new(heap.region(), BLOCKS);
    change(&device);
    match start(&heap, &device, &config(8)) {
        Err(Error::Config(reason)) => {
            assert!(!device.get().dma, "it was kept from memory");
            reason
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it started"),
    }
}

#[test]
fn what_does_not_start_says_why() {
    let cases: [(Change, &str); 9] = [
        (|device| device.get().wrong.absent = true, "does not answer"),
        (|device| device.get().wrong.cap = 63, "NVM command set"),
        (|device| device.get().wrong.cap |= 1 << 48, "smallest memory page is 8192"),
        (|device| device.get().wrong.cap |= 15 << 32, "doorbells"),
        (|device| device.get().wrong.never_ready = true, "did not become ready"),
        (|device| device.get().wrong.namespace = 7, "no namespace 1; there are: 7"),
        (|device| device.get().wrong.refuse = Some(9), "QueueCount"),
        (|device| device.get().wrong.refuse = Some(1), "SubmissionQueue"),
        (|device| device.get().disk.clear(), "namespace 1 cannot be used"),
    ];
    for (change, reason) in cases {
        let said = refusal(change);
        assert!(said.contains(reason) && said.contains("0000:00:04.0"), "{said}");
    }
}

#[test]
fn capabilities_are_the_controllers_within_the_configuration() {
    let heap = heap();
    let device = Simulated::new(heap.region(), BLOCKS);
    let caps = start(&heap, &device, &config(1000)).expect("it starts").caps.clone();
    // 64 entries, of which one stays free.
    assert_eq!((caps.depth, caps.block_size, caps.capacity), (63, 512, 256 * 512));
    assert!(caps.max_transfer == 16384 && caps.discard && !caps.read_only);
    device.get().wrong.cap = 1 << 37 | 1;
    device.get().wrong.read_only = true;
    let caps = start(&heap, &device, &config(1000)).expect("it starts").caps.clone();
    assert!(caps.depth == 1 && caps.read_only);
    assert!(!device.get().dma, "it is kept from memory when it is closed");
}
