//! AF_XDP: rings over the instance's own heap, shared with the kernel's driver.
