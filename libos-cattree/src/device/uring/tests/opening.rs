//! What can be opened, by whom, and what is said of the rest.

use super::*;
use crate::device::uring::Durability;

fn refusal(heap: &Heap, config: &UringConfig) -> String {
    match Uring::open(heap, config) {
        Err(Error::Config(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_made_whole_and_kept() {
    let heap = heap(2 << 20);
    for directory in directories() {
        let path = path_in(&directory);
        let mut rig = Rig::new(&heap, &config(&path));
        assert_eq!(rig.device.caps().capacity, SIZE);
        assert_eq!(rig.read(SIZE - 4096, 4096).unwrap(), [0; 4096]);
        rig.write(0, pattern(&heap, 5, 4096), true).unwrap();
        drop(rig);
        use std::os::unix::fs::MetadataExt;
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= SIZE, "no holes");

        // Another size means nothing now.
        let again = UringConfig { size: Some(8 << 20), ..config(&path) };
        let mut rig = Rig::new(&heap, &again);
        assert_eq!(rig.device.caps().capacity, SIZE);
        assert_eq!(rig.read(0, 4096).unwrap(), pattern(&heap, 5, 4096)[..]);
    }
}

#[test]
fn a_length_is_rounded_down_to_blocks() {
    let heap = heap(2 << 20);
    for directory in directories() {
        let path = path_in(&directory);
        std::fs::write(&path, vec![1; 10_000]).unwrap();
        let rig = Rig::new(&heap, &config(&path));
        let block = rig.device.caps().block_size as u64;
        assert_eq!(rig.device.caps().capacity, 10_000 / block * block);
        drop(rig);
        std::fs::write(&path, [1; 100]).unwrap();
        assert!(refusal(&heap, &config(&path)).contains("less than one block"));
        assert!(path.exists(), "what was there before is not removed");
    }
}

#[test]
fn a_lock_that_is_about_to_go_is_waited_for() {
    let heap = heap(2 << 20);
    for directory in directories() {
        let path = path_in(&directory);
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(file);
        });
        drop(Rig::new(&heap, &config(&path)));
        other.join().unwrap();
    }
}

#[test]
fn one_writes_or_several_read() {
    let heap = heap(2 << 20);
    for directory in directories() {
        let path = path_in(&directory);
        let reading = UringConfig { read_only: true, ..config(&path) };
        let writer = Rig::new(&heap, &config(&path));
        assert!(refusal(&heap, &config(&path)).contains("another instance has it open"));
        assert!(refusal(&heap, &reading).contains("open for writing"));
        drop(writer);

        let mut first = Rig::new(&heap, &reading);
        let second = Rig::new(&heap, &reading);
        assert!(refusal(&heap, &config(&path)).contains("another instance has it open"));
        drop(second);
        assert!(first.device.caps().read_only && !first.device.caps().discard);
        assert_eq!(first.read(0, 4096).unwrap(), [0; 4096]);
        assert_eq!(first.write(0, pattern(&heap, 1, 4096), false), Err(Error::ReadOnly));
        assert_eq!(first.run(Command::Discard { offset: 0, len: 4096 }).result, Err(Error::ReadOnly));
        assert_eq!(first.run(Command::Flush).result, Ok(()));
        assert_eq!(first.read(0, 4096).unwrap(), [0; 4096]);
    }
}

#[test]
fn what_cannot_be_opened_is_said_with_what_to_do() {
    let heap = heap(2 << 20);
    let Some(directory) = directories().into_iter().next() else { return };
    let path = path_in(&directory);
    let no_size = UringConfig { size: None, ..config(&path) };
    assert!(refusal(&heap, &no_size).contains("set its `size`"));
    assert!(refusal(&heap, &UringConfig { read_only: true, ..config(&path) }).contains("no such file"));
    assert!(refusal(&heap, &UringConfig { depth: 0, ..config(&path) }).contains("1 to 4096"));
    assert!(refusal(&heap, &UringConfig { depth: 4097, ..config(&path) }).contains("1 to 4096"));
    assert!(refusal(&heap, &UringConfig { size: Some(0), ..config(&path) }).contains("`size`"));
    assert!(refusal(&heap, &UringConfig::default()).contains("`path`"));
    assert!(refusal(&heap, &config(directory.path())).contains("directory"));
    assert!(refusal(&heap, &config(Path::new("/dev/null"))).contains("neither a regular file"));
    let text = refusal(&heap, &UringConfig { size: Some(1 << 60), ..config(&path) });
    assert!(text.contains("no room"), "{text}");
    assert!(!path.exists(), "a file that could not be made whole is removed");
    // A file system without O_DIRECT.
    let text = refusal(&heap, &UringConfig { read_only: true, ..config(Path::new("/proc/self/cmdline")) });
    assert!(text.contains("O_DIRECT"), "{text}");
}

#[test]
fn the_configuration_is_read_strictly() {
    let config: UringConfig = toml::from_str("path = '/x'\nsize = 4096\ndurability = 'group'").unwrap();
    let expected = UringConfig {
        path: "/x".into(),
        size: Some(4096),
        durability: Durability::Group,
        ..UringConfig::default()
    };
    assert_eq!(config, expected);
    assert_eq!((config.depth, config.direct, config.read_only, config.discard), (256, true, false, None));
    assert!(toml::from_str::<UringConfig>("paht = '/x'").is_err());
}
