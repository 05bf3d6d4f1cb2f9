//! smoltcp's own sockets, over the same devices as catnip: what a good stack that copies costs.
//!
//! - [`port`]: a device queue as smoltcp wants it
//! - [`tcp`]: both ends of an echo, and a connection as such; [`udp`]: datagrams
//!
//! It spins, reads the clock once a turn, and hands what it sends to the device in bursts, as catnip does. smoltcp's
//! settings are those that it ships with, but for Nagle's algorithm, which is off.

mod port;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Result, anyhow};
use demi_api::memalloc::Heap;
use demi_libos_catnip::device::Queue;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use self::port::Port;

/// An interface with one socket over one device.
pub(crate) struct Stack {
    interface: Interface,
    port: Port,
    sockets: SocketSet<'static>,
    began: Instant,
}

impl Stack {
    /// Over `device`, whose frames lie in `heap`, with the address `ip` in a network of `prefix` bits.
    pub(crate) fn over(heap: Heap, device: Box<dyn Queue>, ip: IpAddr, prefix: u8) -> Result<Stack> {
        let address = HardwareAddress::Ethernet(EthernetAddress(device.caps().mac));
        let mut port = Port::new(heap, device);
        let mut config = Config::new(address);
        config.random_seed = std::process::id().into();
        let mut interface = Interface::new(config, &mut port, smoltcp::time::Instant::ZERO);
        let mut fits = true;
        interface.update_ip_addrs(|addrs| fits = addrs.push(IpCidr::new(ip.into(), prefix)).is_ok());
        if !fits {
            return Err(anyhow!("smoltcp takes no address"));
        }
        Ok(Stack { interface, port, sockets: SocketSet::new(Vec::with_capacity(1)), began: Instant::now() })
    }

    /// Receives, lets the socket work, transmits.
    #[inline]
    fn turn(&mut self) {
        let micros = self.began.elapsed().as_nanos() as i64 / 1000;
        self.port.set_time(micros);
        let now = smoltcp::time::Instant::from_micros(micros);
        self.interface.poll(now, &mut self.port, &mut self.sockets);
        self.port.flush();
    }

    /// Turns until `ready` says so.
    #[inline]
    fn turn_until<S>(&mut self, handle: SocketHandle, mut ready: impl FnMut(&mut S) -> bool) -> Result<()>
    where
        S: smoltcp::socket::AnySocket<'static>,
    {
        let mut guard = crate::measure::Guard::new();
        while !ready(self.sockets.get_mut::<S>(handle)) {
            self.turn();
            guard.spin()?;
        }
        Ok(())
    }
}
