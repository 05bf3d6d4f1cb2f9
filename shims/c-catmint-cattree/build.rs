//! Names the library as programs that are linked with it will look for it.

fn main() {
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdemi_catmint_cattree.so.{major}");
    println!("cargo::rerun-if-changed=build.rs");
}
