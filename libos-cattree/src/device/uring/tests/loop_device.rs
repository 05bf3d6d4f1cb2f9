//! A block device: one that the test makes over a file in memory, which takes root.

use std::process::Command as Process;

use super::*;

/// A loop device, gone when this is dropped.
struct LoopDevice {
    path: PathBuf,
    _backing: TempDir,
}

impl LoopDevice {
    /// `None`, and a line that says so, where it cannot be had.
    fn new(test: &str) -> Option<LoopDevice> {
        let backing = tempfile::tempdir_in("/dev/shm").unwrap();
        let image = backing.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
        let made = Process::new("losetup").args(["--find", "--show"]).arg(&image).output();
        let why = match made {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap().trim().into();
                return Some(LoopDevice { path, _backing: backing });
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        skipped(test, &format!("run as root, with losetup: {}", why.trim()));
        None
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let removed = Process::new("losetup").arg("--detach").arg(&self.path).status();
        assert!(removed.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_block_device_is_probed_written_and_read() {
    if directories().is_empty() {
        return;
    }
    let Some(device) = LoopDevice::new("io_uring on a block device") else { return };
    let heap = heap(16 << 20);
    let config = UringConfig { path: device.path.clone(), ..UringConfig::default() };
    let mut rig = Rig::new(&heap, &config);
    let caps = rig.device.caps().clone();
    assert_eq!((caps.block_size, caps.capacity, caps.discard), (512, SIZE, true));
    assert!(caps.max_transfer.is_multiple_of(512) && caps.memory_align <= 512);

    let data: SgArray = (0..8).map(|at| pattern(&heap, at, 512 * (at as usize + 1))).collect();
    for durable in [false, true] {
        rig.write(512, data.clone(), durable).unwrap();
        assert_eq!(rig.read(512, data.len()).unwrap(), data.to_vec());
    }
    assert_eq!(rig.run(Command::Flush).result, Ok(()));
    assert_eq!(rig.run(Command::Discard { offset: 0, len: 64 << 10 }).result, Ok(()));
    assert_eq!(rig.read(0, 64 << 10).unwrap(), [0; 64 << 10]);
    assert_eq!(rig.write(SIZE - 512, pattern(&heap, 1, 512), true), Ok(()));
    assert!(matches!(rig.read(SIZE, 512), Err(Error::Invalid(_))));

    let second = Uring::open(&heap, &config);
    assert!(matches!(&second, Err(Error::Config(text)) if text.contains("in use")), "{second:?}");
    let reader = Uring::open(&heap, &UringConfig { read_only: true, ..config.clone() });
    assert!(matches!(&reader, Err(Error::Config(text)) if text.contains("for writing")), "{reader:?}");
    drop(rig);
    let mut reader = Rig::new(&heap, &UringConfig { read_only: true, ..config });
    assert_eq!(reader.read(SIZE - 512, 512).unwrap(), pattern(&heap, 1, 512)[..]);
}
