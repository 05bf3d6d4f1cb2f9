//! Paths of regions: `rdma://[ADDRESS:PORT]/NAME[?size=BYTES][&access=r|rw]`.

use std::net::SocketAddr;
use std::path::Path;

use demi_api::error::Error;

use super::hello::NAME_MAX;
use crate::device::Access;

/// What a path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegionPath<'a> {
    /// Where the instance that exports it listens, or shall listen; none: here, wherever it listens.
    pub(crate) at: Option<SocketAddr>,
    /// 1 to [`NAME_MAX`] bytes, none of them zero.
    pub(crate) name: &'a str,
    /// Bytes of a region that is to be made.
    pub(crate) size: Option<usize>,
    /// What peers may do to it.
    pub(crate) access: Option<Access>,
}

/// Reading alone.
pub(crate) const READ: Access = Access { read: true, write: false, atomic: false };
/// All there is.
pub(crate) const ALL: Access = Access { read: true, write: true, atomic: true };

impl<'a> RegionPath<'a> {
    pub(crate) fn parse(path: &'a Path) -> Result<RegionPath<'a>, Error> {
        let rest = path
            .to_str()
            .and_then(|path| path.strip_prefix("rdma://"))
            .ok_or(Error::NotSupported("files: the path of a region begins with rdma://"))?;
        let (at, rest) =
            rest.split_once('/').ok_or(Error::Invalid("a region's path is rdma://ip:port/name"))?;
        let at = match at {
            "" => None,
            at => Some(at.parse().map_err(|_| Error::Invalid("a region is at an IP address and a port"))?),
        };
        let (name, options) = rest.split_once('?').unwrap_or((rest, ""));
        if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
            return Err(Error::Invalid("a region's name has 1 to 48 bytes, none of them zero"));
        }
        let mut parsed = RegionPath { at, name, size: None, access: None };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            parsed.option(option)?;
        }
        Ok(parsed)
    }

    fn option(&mut self, option: &str) -> Result<(), Error> {
        match option.split_once('=') {
            Some(("size", bytes)) => {
                let size = bytes.parse().ok().filter(|size| (1..=isize::MAX as usize).contains(size));
                self.size =
                    Some(size.ok_or(Error::Invalid("a region's size is a number of bytes, at least 1"))?);
            }
            Some(("access", "r")) => self.access = Some(READ),
            Some(("access", "rw")) => self.access = Some(ALL),
            Some(("access", _)) => return Err(Error::Invalid("a region's access is r or rw")),
            _ => return Err(Error::Invalid("a region's options are size and access")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_they_say() {
        let parse = |text: &'static str| RegionPath::parse(Path::new(text));
        assert_eq!(parse("rdma:///n"), Ok(RegionPath { at: None, name: "n", size: None, access: None }));
        let at = "10.0.0.1:7".parse().ok();
        let name = "tables/a b=c";
        let full = RegionPath { at, name, size: Some(4096), access: Some(READ) };
        assert_eq!(parse("rdma://10.0.0.1:7/tables/a b=c?size=4096&access=r"), Ok(full));
        let at = "[fd00::1]:65535".parse().ok();
        let six = RegionPath { at, name: "n", size: None, access: Some(ALL) };
        assert_eq!(parse("rdma://[fd00::1]:65535/n?access=rw"), Ok(six));
        let longest = "rdma:///012345678901234567890123456789012345678901234567";
        assert_eq!(parse(longest).map(|path| path.name.len()), Ok(48));
        for bad in [
            "rdma:",
            "rdma://",
            "rdma:///",
            "rdma://n",
            "rdma:///?size=1",
            "rdma://host:7/n",
            "rdma://10.0.0.1/n",
            "rdma:///n?size=0",
            "rdma:///n?size=-1",
            "rdma:///n?size=99999999999999999999",
            "rdma:///n?access=x",
            "rdma:///n?color=red",
            "rdma:///n?size",
            "rdma:///a\0b",
            "rdma:///0123456789012345678901234567890123456789012345678",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
