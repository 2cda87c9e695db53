// SPDX-License-Identifier: Apache-2.0
//! Numbers of system calls by name, from `syscalls.tbl`.

use super::policy::Machine;

/// The number of a system call on a machine; `None` if it does not exist there or is not known at all.
pub fn number(name: &str, machine: Machine) -> Option<u32> {
    let column = match machine {
        Machine::X86_64 => 1,
        Machine::X86 => 2,
    };
    entries()
        .find(|fields| fields[0] == name)
        .and_then(|fields| fields[column].parse().ok())
}

fn entries() -> impl Iterator<Item = [&'static str; 3]> {
    include_str!("syscalls.tbl")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some([fields.next()?, fields.next()?, fields.next()?])
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_libc() {
        for (name, expected) in [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("seccomp", libc::SYS_seccomp),
            ("memfd_secret", libc::SYS_memfd_secret),
        ] {
            assert_eq!(
                number(name, Machine::X86_64).map(i64::from),
                Some(expected),
                "{name}"
            );
        }
        assert_eq!(number("socketcall", Machine::X86_64), None);
        assert_eq!(number("socketcall", Machine::X86), Some(102));
        assert_eq!(number("no_such_call", Machine::X86), None);
    }

    #[test]
    fn every_line_is_whole_and_sorted() {
        let names: Vec<_> = entries().map(|fields| fields[0]).collect();
        assert!(names.is_sorted());
        assert_eq!(
            names.len() + 2,
            include_str!("syscalls.tbl").lines().count()
        );
    }
}
