//! Where the device is, and in whose hands, as sysfs tells.

use std::fs;
use std::path::{Path, PathBuf};

use demi_api::error::Error;

use super::super::config::NvmeConfig;

/// Mass storage, non-volatile memory, NVMe I/O or older (PCI class code).
const CLASS: &str = "0x010802";

/// The device's IOMMU group, if all is as it must be.
pub(super) fn group(config: &NvmeConfig) -> Result<u32, Error> {
    group_in(Path::new("/sys/bus/pci/devices"), config)
}

fn group_in(devices: &Path, config: &NvmeConfig) -> Result<u32, Error> {
    let device = devices.join(&config.address);
    if !device.exists() {
        let there = controllers(devices);
        let there = if there.is_empty() { "no NVMe controller".to_owned() } else { there.join(", ") };
        return Err(config.failed(format_args!("there is no such PCI device; there is: {there}")));
    }
    let class = read(&device.join("class"));
    if class != CLASS {
        return Err(config.failed(format_args!("it is no NVMe controller (its PCI class is {class})")));
    }
    match driver(&device).as_deref() {
        Some("vfio-pci") => {}
        Some(driver) => {
            return Err(config.failed(format_args!(
                "the kernel's driver `{driver}` has it. Unmount what is on it, then: {}",
                binding(&config.address, true)
            )));
        }
        None => {
            let how = binding(&config.address, false);
            return Err(config.failed(format_args!("no driver has it; give it to user space: {how}")));
        }
    }
    let group = fs::read_link(device.join("iommu_group")).ok();
    let number = group.and_then(|path| path.file_name()?.to_str()?.parse().ok());
    number.ok_or_else(|| {
        config.failed(
            "it is behind no IOMMU; switch that on in the firmware, and start the kernel with intel_iommu=on or \
             amd_iommu=on",
        )
    })
}

/// The commands that give a device to user space.
fn binding(address: &str, is_bound: bool) -> String {
    let device = format!("/sys/bus/pci/devices/{address}");
    let unbind = if is_bound { format!("echo {address} > {device}/driver/unbind; ") } else { String::new() };
    format!(
        "modprobe vfio-pci; echo vfio-pci > {device}/driver_override; {unbind}echo {address} > \
         /sys/bus/pci/drivers_probe"
    )
}

/// Which devices keep the group from being used.
pub(super) fn not_viable(group: u32) -> String {
    let members = PathBuf::from(format!("/sys/kernel/iommu_groups/{group}/devices"));
    let names = fs::read_dir(members).into_iter().flatten().flatten();
    let held = names.filter_map(|entry| {
        let driver = driver(&entry.path())?;
        (driver != "vfio-pci").then(|| format!("{} ({driver})", entry.file_name().to_string_lossy()))
    });
    let held = held.collect::<Vec<_>>().join(", ");
    format!(
        "the kernel's drivers have other devices of IOMMU group {group}: {held}; give them to vfio-pci too"
    )
}

fn driver(device: &Path) -> Option<String> {
    let link = fs::read_link(device.join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

fn controllers(devices: &Path) -> Vec<String> {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| read(&entry.path().join("class")) == CLASS);
    let mut names: Vec<_> = ours.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn config(address: &str) -> NvmeConfig {
        NvmeConfig { address: address.into(), ..NvmeConfig::default() }
    }

    fn refusal(devices: &Path, address: &str) -> String {
        group_in(devices, &config(address)).expect_err("it cannot be used").to_string()
    }

    #[test]
    fn a_device_that_cannot_be_used_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let devices = folder.path();
        for (address, class) in [("0000:00:04.0", "0x010802\n"), ("0000:00:05.0", "0x020000\n")] {
            fs::create_dir(devices.join(address)).expect("a device");
            fs::write(devices.join(address).join("class"), class).expect("a class");
        }
        let device = devices.join("0000:00:04.0");
        assert!(refusal(devices, "0000:00:07.0").contains("there is: 0000:00:04.0"));
        assert!(refusal(devices, "0000:00:05.0").contains("no NVMe controller (its PCI class is 0x020000)"));
        assert!(refusal(devices, "0000:00:04.0").contains("no driver has it"));
        symlink("../../drivers/nvme", device.join("driver")).expect("a driver");
        let bound = refusal(devices, "0000:00:04.0");
        assert!(bound.contains("`nvme` has it") && bound.contains("driver/unbind"), "{bound}");
        fs::remove_file(device.join("driver")).expect("it was there");
        symlink("../../drivers/vfio-pci", device.join("driver")).expect("a driver");
        assert!(refusal(devices, "0000:00:04.0").contains("intel_iommu=on"));
        symlink("../../kernel/iommu_groups/17", device.join("iommu_group")).expect("a group");
        assert_eq!(group_in(devices, &config("0000:00:04.0")), Ok(17));
    }
}
