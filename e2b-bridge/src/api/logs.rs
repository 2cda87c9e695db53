// SPDX-License-Identifier: Apache-2.0
//! `GET /sandboxes/{id}/logs`, both versions.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use serde::Serialize;
use serde_json::json;

use super::{Api, query};
use crate::error::ApiError;
use crate::keys::Caller;
use crate::sandbox::{Level, LogLine};

const LIMIT: usize = 1000;

/// What the command-line client reads.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogsV1 {
    logs: Vec<LineV1>,
    log_entries: Vec<LineV2>,
}

#[derive(Debug, Serialize)]
struct LineV1 {
    timestamp: String,
    line: String,
}

/// The second version.
#[derive(Debug, Serialize)]
pub struct LogsV2 {
    logs: Vec<LineV2>,
}

#[derive(Debug, Serialize)]
struct LineV2 {
    timestamp: String,
    message: String,
    level: Level,
    fields: BTreeMap<&'static str, String>,
}

/// `start` in milliseconds, `limit`.
pub async fn v1(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<LogsV1>, ApiError> {
    let sandbox = api.sandboxes.get(&caller.team, &id)?;
    let mut wanted = Wanted::parse(query.as_deref().unwrap_or_default(), "start")?;
    wanted.backward = false;
    let lines = wanted.select(sandbox.log().lines());
    Ok(Json(LogsV1 {
        logs: lines.iter().map(LineV1::of).collect(),
        log_entries: lines.into_iter().map(LineV2::of).collect(),
    }))
}

/// `cursor` in milliseconds, `limit`, `direction`, `level`, `search`.
pub async fn v2(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<LogsV2>, ApiError> {
    let sandbox = api.sandboxes.get(&caller.team, &id)?;
    let wanted = Wanted::parse(query.as_deref().unwrap_or_default(), "cursor")?;
    let lines = wanted.select(sandbox.log().lines());
    Ok(Json(LogsV2 {
        logs: lines.into_iter().map(LineV2::of).collect(),
    }))
}

impl LineV1 {
    fn of(line: &LogLine) -> Self {
        Self {
            timestamp: line.at.rfc3339(),
            line: json!({
                "level": line.level, "logger": line.logger, "message": line.message,
            })
            .to_string(),
        }
    }
}

impl LineV2 {
    fn of(line: LogLine) -> Self {
        Self {
            timestamp: line.at.rfc3339(),
            message: line.message,
            level: line.level,
            fields: [("logger", line.logger)].into(),
        }
    }
}

/// Which lines.
#[derive(Debug)]
struct Wanted {
    from_ms: Option<u64>,
    limit: usize,
    backward: bool,
    errors_only: bool,
    search: String,
}

impl Wanted {
    fn parse(text: &str, from: &'static str) -> Result<Self, ApiError> {
        let pairs = query::pairs(text);
        let value = |name| query::value(&pairs, name);
        let limit = query::number(&pairs, "limit")?.unwrap_or(LIMIT as u64);
        Ok(Self {
            from_ms: query::number(&pairs, from)?,
            limit: usize::try_from(limit).map_or(LIMIT, |limit| limit.min(LIMIT)),
            backward: value("direction") == Some("backward"),
            errors_only: value("level") == Some("error"),
            search: value("search").unwrap_or_default().to_owned(),
        })
    }

    fn select(&self, mut lines: Vec<LogLine>) -> Vec<LogLine> {
        lines.retain(|line| {
            let is_in_range = self.from_ms.is_none_or(|from| match self.backward {
                true => line.at.0 <= from,
                false => line.at.0 >= from,
            });
            is_in_range
                && (!self.errors_only || line.level == Level::Error)
                && line.message.contains(&self.search)
        });
        if self.backward {
            lines.reverse();
        }
        lines.truncate(self.limit);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Moment;

    fn select(query: &str) -> String {
        let line = |at, level, message: &str| LogLine {
            at: Moment(at),
            level,
            logger: "sh".into(),
            message: message.into(),
        };
        let lines = vec![
            line(1, Level::Info, "a"),
            line(2, Level::Error, "b"),
            line(3, Level::Info, "c"),
        ];
        let wanted = Wanted::parse(query, "cursor").unwrap();
        let found = wanted.select(lines);
        found.into_iter().map(|line| line.message).collect()
    }

    #[test]
    fn lines_are_selected() {
        for (query, expect) in [
            ("", "abc"),
            ("cursor=2", "bc"),
            ("cursor=2&direction=backward", "ba"),
            ("limit=1", "a"),
            ("level=error", "b"),
            ("search=c", "c"),
        ] {
            assert_eq!(select(query), expect, "{query}");
        }
    }

    #[test]
    fn the_command_line_client_finds_json_in_a_line() {
        let line = LogLine {
            at: Moment(1),
            level: Level::Error,
            logger: "sh".into(),
            message: "no".into(),
        };
        let read: serde_json::Value = serde_json::from_str(&LineV1::of(&line).line).unwrap();
        assert_eq!(
            (&read["level"], &read["logger"]),
            (&json!("error"), &json!("sh"))
        );
    }
}
