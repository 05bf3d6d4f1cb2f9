//! An established link: both rings, the memory that they lie in, and their interrupts.

use std::rc::Rc;

use super::config::MemifConfig;
use super::protocol::AddRing;
use super::raw::{RingMemory, Shared};
use super::region::{Layout, SealedFile};
use super::ring::{Buffers, Ring, Violation};
use super::sys::Interrupt;

/// The rings of a link. Which direction each has depends on the role.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    pub(super) rx_interrupt: Interrupt,
    pub(super) tx_interrupt: Interrupt,
    /// The peer interrupts us when it sends.
    unmasked: bool,
}

impl Link {
    /// Asks for interrupts; true if there is something to receive already.
    pub(super) fn unmask(&mut self) -> Result<bool, Violation> {
        self.unmasked = true;
        self.rx.unmask_interrupts()
    }

    /// We are awake and poll.
    #[inline]
    pub(super) fn mask(&mut self) {
        if self.unmasked {
            self.unmasked = false;
            self.rx.mask_interrupts();
        }
    }
}

/// What a client offers: a region with both rings.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) file: SealedFile,
    pub(super) layout: Layout,
    /// Of the rings to the server and from it.
    pub(super) interrupts: [Interrupt; 2],
    rings: [Ring; 2],
}

impl Offer {
    /// Makes the region. `ring_log2` is what the server can do at the most.
    pub(super) fn make(config: &MemifConfig, ring_log2: u8) -> rustix::io::Result<Offer> {
        let ring_log2 = config.ring_log2.min(ring_log2);
        let layout = Layout { ring_log2, ..config.layout() };
        let file = SealedFile::create(layout.bytes())?;
        let region = Rc::new(Shared::map(&file)?);
        let ring = |number| {
            let buffers = Buffers::Own {
                region: region.clone(),
                first: layout.buffers_at(number),
                stride: layout.stride(),
                bytes: layout.buffer_bytes,
            };
            let memory = RingMemory::new(&region, layout.ring_at(number) as usize, ring_log2);
            memory.map(|memory| Ring::create(memory, buffers)).ok_or(rustix::io::Errno::INVAL)
        };
        let rings = [ring(0)?, ring(1)?];
        let interrupts = [Interrupt::new()?, Interrupt::new()?];
        Ok(Offer { file, layout, interrupts, rings })
    }

    /// The server has confirmed.
    pub(super) fn into_link(self) -> Link {
        let [tx, mut rx] = self.rings;
        let [tx_interrupt, rx_interrupt] = self.interrupts;
        tx.start_sending();
        rx.start_receiving();
        Link { rx, tx, rx_interrupt, tx_interrupt, unmasked: false }
    }
}

/// What a server has been offered so far.
#[derive(Debug, Default)]
pub(super) struct Offered {
    pub(super) regions: Vec<SealedFile>,
    /// The rings from the client and to it.
    pub(super) rings: [Option<(AddRing, Interrupt)>; 2],
}

impl Offered {
    /// Maps it all.
    pub(super) fn into_link(self) -> Result<Link, &'static str> {
        let [Some(c2s), Some(s2c)] = self.rings else { return Err("Ring missing") };
        let map = |file| Shared::map(file).map(Rc::new);
        let regions: Result<Vec<_>, _> = self.regions.iter().map(map).collect();
        let regions: Rc<[_]> = regions.map_err(|_| "Region cannot be mapped")?.into();
        let ring = |offer: &AddRing| {
            let region = regions.get(usize::from(offer.region)).ok_or("Ring in an unknown region")?;
            let memory = RingMemory::new(region, offer.offset as usize, offer.ring_log2);
            let memory = memory.ok_or("Ring beyond its region, too large, or not aligned")?;
            Ring::attach(memory, Buffers::Foreign(regions.clone()))
        };
        let (rx, tx) = (ring(&c2s.0)?, ring(&s2c.0)?);
        rx.mask_interrupts();
        Ok(Link { rx, tx, rx_interrupt: c2s.1, tx_interrupt: s2c.1, unmasked: false })
    }
}
