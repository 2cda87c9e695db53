// SPDX-License-Identifier: Apache-2.0
//! From a spec's process object to what the stage does just before it becomes that process.

use super::spec::{Process, Rlimit};
use super::{SpecError, capabilities, mounts};
use crate::stage::{CapabilityPlan, ProcessPlan, RlimitPlan, WindowSize};

/// The plan of a process. What a further process leaves out it takes from the container's first, as runc
/// does: capabilities, resource limits, and how readily it is killed for want of memory.
pub fn process_plan(
    process: &Process,
    first: Option<&ProcessPlan>,
) -> Result<ProcessPlan, SpecError> {
    refuse_what_is_missing(process)?;
    if process.args.first().is_none_or(String::is_empty) {
        return Err(SpecError::invalid("process.args", "there is no command"));
    }
    let cwd = mounts::absolute(&process.cwd).ok_or_else(|| {
        SpecError::invalid(
            "process.cwd",
            format!("{:?} is not an absolute path", process.cwd),
        )
    })?;
    let has_nul = |text: &String| text.contains('\0');
    if process.args.iter().any(has_nul) || process.env.iter().any(has_nul) {
        return Err(SpecError::invalid(
            "process",
            "a string contains a NUL byte",
        ));
    }
    Ok(ProcessPlan {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd,
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        umask: process.user.umask.unwrap_or(0o022) & 0o777,
        capabilities: capabilities_of(process)
            .or_else(|| first.map(|first| first.capabilities))
            .unwrap_or_default(),
        rlimits: match (process.rlimits.as_slice(), first) {
            ([], Some(first)) => first.rlimits.clone(),
            (own, _) => own.iter().map(rlimit).collect::<Result<_, _>>()?,
        },
        no_new_privileges: process.no_new_privileges,
        oom_score_adj: process
            .oom_score_adj
            .or_else(|| first.and_then(|first| first.oom_score_adj)),
        window: window(process),
    })
}

fn refuse_what_is_missing(process: &Process) -> Result<(), SpecError> {
    let table = [
        (&process.io_priority, "process.ioPriority"),
        (&process.scheduler, "process.scheduler"),
        (&process.exec_cpu_affinity, "process.execCPUAffinity"),
    ];
    match table.iter().find(|(value, _)| value.is_some()) {
        Some((_, field)) => Err(SpecError::unsupported(*field, "this setting is")),
        None => Ok(()),
    }
}

fn capabilities_of(process: &Process) -> Option<CapabilityPlan> {
    let sets = process.capabilities.as_ref()?;
    Some(CapabilityPlan {
        bounding: capabilities::set(&sets.bounding),
        effective: capabilities::set(&sets.effective),
        inheritable: capabilities::set(&sets.inheritable),
        permitted: capabilities::set(&sets.permitted),
        ambient: capabilities::set(&sets.ambient),
    })
}

fn window(process: &Process) -> Option<WindowSize> {
    let size = process.console_size?;
    Some(WindowSize {
        columns: u16::try_from(size.width).ok()?,
        rows: u16::try_from(size.height).ok()?,
    })
}

/// In the order of their numbers on x86 (asm-generic/resource.h).
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

fn rlimit(limit: &Rlimit) -> Result<RlimitPlan, SpecError> {
    let resource = RLIMITS
        .iter()
        .position(|name| *name == limit.kind)
        .ok_or_else(|| {
            SpecError::invalid(
                "process.rlimits",
                format!("type {:?} is unknown", limit.kind),
            )
        })?;
    Ok(RlimitPlan {
        resource: u32::try_from(resource).expect("there are sixteen"),
        soft: limit.soft,
        hard: limit.hard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str, first: Option<&ProcessPlan>) -> Result<ProcessPlan, SpecError> {
        process_plan(&serde_json::from_str(json).unwrap(), first)
    }

    #[test]
    fn a_further_process_takes_what_it_leaves_out_from_the_first() {
        let first = plan(
            r#"{"args":["a"],"cwd":"/","capabilities":{"bounding":["CAP_KILL"]},"oomScoreAdj":5,
                "rlimits":[{"type":"RLIMIT_NOFILE","hard":20,"soft":10}]}"#,
            None,
        )
        .unwrap();
        let further = plan(r#"{"args":["b"],"cwd":"/tmp/../x"}"#, Some(&first)).unwrap();
        assert_eq!(further.capabilities.bounding, 1 << 5);
        assert_eq!(further.rlimits[0].resource, 7);
        assert_eq!(further.oom_score_adj, Some(5));
        assert_eq!(further.cwd, std::path::Path::new("/x"));
        assert_eq!(further.umask, 0o022);
    }

    #[test]
    fn a_process_that_cannot_run_is_refused() {
        for json in [
            r#"{"cwd":"/"}"#,
            r#"{"args":[""],"cwd":"/"}"#,
            r#"{"args":["a"],"cwd":"x"}"#,
            r#"{"args":["a\u0000b"],"cwd":"/"}"#,
            r#"{"args":["a"],"cwd":"/","rlimits":[{"type":"RLIMIT_X","hard":1,"soft":1}]}"#,
            r#"{"args":["a"],"cwd":"/","scheduler":{}}"#,
        ] {
            assert!(plan(json, None).is_err(), "{json}");
        }
    }
}
