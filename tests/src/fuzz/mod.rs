//! What the fuzz targets run: functions of any bytes, which must hold whatever these are.
//!
//! The targets are in `fuzz/`, with their corpora; an ordinary test runs these through the same functions.
//!
//! | file | what it holds |
//! |---|---|
//! | `framing` | messages in streams |
//! | `config` | configurations |
//! | `ingress` | any frames, into an instance of catnip |
//! | `script` | frames that fit what the instance does, between calls of its application |
//! | `middle` | two instances, and somebody in the middle who drops, repeats and rewrites |
//! | `memif` | a peer of a shared-memory NIC: on the control socket, and in the rings |
//! | `mint` | a peer of catmint: hellos, messages, credit words, memory |
//! | `image` | images of logs |
//! | `fsck` | the same, checked and repaired |
//! | `roce` | packets of RDMA peers: any bytes, any requests and answers, any words of connection managers |
//! | `packet` | frames put together and taken apart; independent of the code under test |
//! | `host`, `talk` | an instance on a cable, and a TCP peer made by hand; hostile tests use them too |
//! | `input` | bytes as a source of decisions |

pub mod config;
pub mod framing;
pub mod fsck;
pub mod host;
pub mod image;
pub mod ingress;
mod input;
pub mod memif;
pub mod middle;
pub mod mint;
pub mod packet;
pub mod roce;
pub mod script;
pub mod talk;

pub use self::config::config;
pub use self::framing::{frames, resp};
pub use self::fsck::fsck;
pub use self::image::image;
pub use self::ingress::ingress;
pub use self::memif::{memif_control, memif_rings};
pub use self::middle::middle;
pub use self::mint::mint;
pub use self::roce::{roce_cm, roce_peer, roce_wire};
pub use self::script::script;
