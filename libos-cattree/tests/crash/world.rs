//! An instance over an image in memory, whose device is recorded, may fail, and completes in an order of its own.

use std::time::Duration;

use demi_api::config::Config;
use demi_api::error::Error;
use demi_api::instance::Demikernel;
use demi_api::libos::OpenOptions;
use demi_api::op::Completion;
use demi_api::time::{Clock, Instant};
use demi_api::token::QToken;
use demi_libos_cattree::device::crash::{Recorder, Trace};
use demi_libos_cattree::device::fault::{Fault, Rules};
use demi_libos_cattree::device::mem::{Image, Mem, MemConfig, Shuffle};
use demi_libos_cattree::{Cattree, CattreeSection};

use crate::model::{Element, Found};

/// What the device is like.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// The device's block, and the image's if one is made.
    pub(crate) block: usize,
    pub(crate) segment: usize,
    pub(crate) depth: usize,
    pub(crate) max_transfer: usize,
    /// Most polls that a request takes beyond the first; none: in order.
    pub(crate) delay: Option<u64>,
    pub(crate) rules: Rules,
    pub(crate) read_only: bool,
    /// Mebibytes of the heap: the more, the longer an instance takes to begin.
    pub(crate) heap: usize,
}

impl Options {
    pub(crate) fn new(seed: u64) -> Options {
        Options {
            seed,
            block: 512,
            segment: 8192,
            depth: 32,
            max_transfer: 64 << 10,
            delay: None,
            rules: Rules::new(seed),
            read_only: false,
            heap: 2,
        }
    }
}

pub(crate) struct World {
    pub(crate) demi: Demikernel<Cattree>,
    pub(crate) trace: Trace,
    clock: Clock,
}

impl World {
    /// Opens an image, and makes it first if there is none.
    pub(crate) fn open(image: &Image, options: &Options) -> Result<World, Error> {
        World::open_onto(image, options, Trace::default())
    }

    /// The same, by a process that comes after another: the trace goes on.
    pub(crate) fn open_onto(image: &Image, options: &Options, trace: Trace) -> Result<World, Error> {
        let config = MemConfig {
            block_size: options.block,
            depth: options.depth,
            max_transfer: options.max_transfer,
            read_only: options.read_only,
            shuffle: options.delay.map(|delay| Shuffle { seed: options.seed, delay }),
            ..MemConfig::default()
        };
        let device = Fault::new(Mem::over(image.clone(), &config)?, options.rules.clone());
        let device = Recorder::onto(device, trace.clone());
        let text = format!(
            "[heap]\nsize_mib = {}\nlock = false\nhuge_pages = \"never\"\n\
             [cattree]\nblock_size = {}\nsegment_size = {}\nzero_copy_threshold = {}\n",
            options.heap,
            options.block,
            options.segment,
            4 * options.block
        );
        let config = Config::parse(&text, "crash")?;
        let section = CattreeSection::load(&config)?;
        let clock = Clock::manual(Instant::from_nanos(1_000_000_000));
        let rng = fastrand::Rng::with_seed(options.seed);
        let demi = Demikernel::assemble(&config, clock.clone(), rng, |setup, rng| {
            Cattree::over(&setup, &section, Box::new(device), rng)
        })?;
        Ok(World { demi, trace, clock })
    }

    /// A new image of `size` bytes.
    pub(crate) fn make(size: usize, options: &Options) -> Image {
        let image = Image::new(vec![0; size]);
        drop(World::open(&image, options).unwrap());
        image
    }

    /// One turn of the wait loop, a microsecond later than the last.
    pub(crate) fn turn(&self) {
        self.clock.set(self.clock.now() + Duration::from_micros(1));
        self.demi.poll().unwrap();
    }

    /// The result of an operation, if it is there.
    pub(crate) fn take(&self, token: QToken) -> Option<Completion> {
        match self.demi.wait(token, Some(Duration::ZERO)) {
            Ok(completion) => Some(completion),
            Err(Error::TimedOut) => None,
            Err(error) => panic!("{token}: {error}"),
        }
    }

    /// The result of an operation that must have one within `turns`.
    pub(crate) fn within(&self, turns: usize, token: QToken) -> Option<Completion> {
        self.take(token).or_else(|| {
            (0..turns).find_map(|_| {
                self.turn();
                self.take(token)
            })
        })
    }

    /// Everything that is in all logs. On a device that answers at the next poll.
    pub(crate) fn read_all(&self) -> Result<Found, Error> {
        let mut found = Found::new();
        for path in self.demi.list()? {
            let name = path.to_string_lossy().into_owned();
            let (elements, error) = self.read_log(&name)?;
            match error {
                None => found.insert(name, elements),
                Some(error) => return Err(error),
            };
        }
        Ok(found)
    }

    /// What is in a log, up to its end or an error.
    pub(crate) fn read_log(&self, name: &str) -> Result<(Vec<Element>, Option<Error>), Error> {
        let qd = self.demi.open(name, &OpenOptions { read_only: true, ..OpenOptions::default() })?;
        let mut elements: Vec<Element> = Vec::new();
        let error = loop {
            assert!(elements.len() < 10_000, "{name} never ends");
            let pop = self.demi.pop(qd)?;
            match self.within(4, pop).map(|completion| completion.popped()) {
                Some(Ok(element)) => elements.push(element.to_vec().into()),
                Some(Err(error)) => break Some(error),
                None => {
                    self.demi.cancel(pop)?;
                    break None;
                }
            }
        };
        self.demi.close(qd)?;
        Ok((elements, error))
    }
}
