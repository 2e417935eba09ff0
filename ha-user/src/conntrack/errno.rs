//! Names of the error numbers that conntrack requests and sync datagrams are answered with.

/// The C name of an errno, `ok` for 0, `other` for what is not known to be answered.
pub fn name(errno: i32) -> &'static str {
    match errno {
        0 => "ok",
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EINVAL => "EINVAL",
        libc::ENOSPC => "ENOSPC",
        libc::ERANGE => "ERANGE",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EMSGSIZE => "EMSGSIZE",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::ENOBUFS => "ENOBUFS",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::EINTR => "EINTR",
        libc::ENODEV => "ENODEV",
        libc::ENETDOWN => "ENETDOWN",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EDESTADDRREQ => "EDESTADDRREQ",
        libc::ENOTCONN => "ENOTCONN",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    /// The numbers of the Linux ABI map to their C names; unknown ones do not panic.
    #[test]
    fn known_names() {
        let names: Vec<_> = [0, 2, 11, 16, 17, 95, 105, i32::MIN].map(super::name).into();
        assert_eq!(names, ["ok", "ENOENT", "EAGAIN", "EBUSY", "EEXIST", "EOPNOTSUPP", "ENOBUFS", "other"]);
    }
}
