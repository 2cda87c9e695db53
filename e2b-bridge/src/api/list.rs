// SPDX-License-Identifier: Apache-2.0
//! `GET /sandboxes` and `GET /v2/sandboxes`: filters, order and pages.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue};

use super::model::ListedSandbox;
use super::{Api, query};
use crate::error::ApiError;
use crate::keys::Caller;
use crate::moment::Moment;
use crate::sandbox::{Sandbox, SandboxRecord};

const MAX_LIMIT: usize = 100;

/// The older version: all that run, newest first.
pub async fn v1(
    caller: Caller,
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<ListedSandbox>>, ApiError> {
    let mut wanted = Wanted::parse(query.as_deref().unwrap_or_default())?;
    wanted.limit = usize::MAX;
    let (found, _) = page(&api, &caller, &wanted);
    Ok(Json(found))
}

/// A page, and the way to the next one in a header.
pub async fn v2(
    caller: Caller,
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<(HeaderMap, Json<Vec<ListedSandbox>>), ApiError> {
    let wanted = Wanted::parse(query.as_deref().unwrap_or_default())?;
    let (found, next) = page(&api, &caller, &wanted);
    let mut headers = HeaderMap::new();
    if let Some(next) = next.and_then(|next| HeaderValue::try_from(next.to_string()).ok()) {
        headers.insert("x-next-token", next);
    }
    Ok((headers, Json(found)))
}

fn page(api: &Api, caller: &Caller, wanted: &Wanted) -> (Vec<ListedSandbox>, Option<Place>) {
    let all = api.sandboxes.list(Some(&caller.team));
    let mut found: Vec<_> = all
        .iter()
        .map(|sandbox| (Place::of(sandbox), sandbox))
        .filter(|(place, sandbox)| wanted.takes(place, &sandbox.record()))
        .collect();
    found.sort_by(|(one, _), (other, _)| match wanted.ascending {
        true => one.cmp(other),
        false => other.cmp(one),
    });
    let has_more = found.len() > wanted.limit;
    found.truncate(wanted.limit);
    let last = found.last().map(|(place, _)| place.clone());
    let listed = found.iter().map(|(_, sandbox)| ListedSandbox::of(sandbox));
    (listed.collect(), last.filter(|_| has_more))
}

/// Where a sandbox stands in the order of a list; as text, the token of the page after it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    started: Moment,
    id: String,
}

impl Place {
    fn of(sandbox: &Sandbox) -> Self {
        Self {
            started: started(&sandbox.record()),
            id: sandbox.id().to_string(),
        }
    }

    fn parse(token: &str) -> Option<Self> {
        let (started, id) = token.split_once('-')?;
        Some(Self {
            started: Moment(started.parse().ok()?),
            id: id.to_owned(),
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}-{}", self.started.0, self.id)
    }
}

fn started(record: &SandboxRecord) -> Moment {
    record.started.unwrap_or(record.created)
}

/// What a list is to have.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    metadata: Vec<(String, String)>,
    /// None of those that run, if nobody asked for these.
    running: bool,
    ascending: bool,
    started_after: Option<Moment>,
    template: Option<String>,
    limit: usize,
    after: Option<Place>,
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let pairs = query::pairs(text);
        let value = |name| query::value(&pairs, name);
        let states = value("state").unwrap_or("running,paused");
        if let Some(unknown) = states.split(',').find(|state| !is_state(state)) {
            return Err(ApiError::invalid(
                "state",
                format!("there is no {unknown:?}"),
            ));
        }
        let limit = query::number(&pairs, "limit")?.unwrap_or(MAX_LIMIT as u64);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if !(1..=MAX_LIMIT).contains(&limit) {
            let why = format!("{limit} is not between 1 and {MAX_LIMIT}");
            return Err(ApiError::invalid("limit", why));
        }
        Ok(Self {
            metadata: metadata(value("metadata").unwrap_or_default()),
            running: states.split(',').any(|state| state == "running"),
            ascending: value("order") == Some("asc"),
            started_after: parsed("startedAfter", value("startedAfter"), Moment::parse)?,
            template: value("template").map(str::to_owned),
            limit,
            after: parsed("nextToken", value("nextToken"), Place::parse)?,
        })
    }

    fn takes(&self, place: &Place, record: &SandboxRecord) -> bool {
        let follows = |after: &Place| match self.ascending {
            true => place > after,
            false => place < after,
        };
        let has = |(name, value): &(String, String)| record.metadata.get(name) == Some(value);
        let is_template =
            |name: &String| record.template == *name || record.alias.as_ref() == Some(name);
        self.running
            && self.metadata.iter().all(has)
            && self.started_after.is_none_or(|after| place.started > after)
            && self.template.as_ref().is_none_or(is_template)
            && self.after.as_ref().is_none_or(follows)
    }
}

/// Pairs in a parameter, whose names and values SDKs encode once more.
fn metadata(text: &str) -> Vec<(String, String)> {
    let pairs = query::pairs(text).into_iter();
    pairs
        .map(|(name, value)| (query::decode(&name), query::decode(&value)))
        .collect()
}

fn is_state(name: &str) -> bool {
    matches!(name, "running" | "paused")
}

fn parsed<T>(
    field: &'static str,
    text: Option<&str>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let value = parse(text);
    let why = || ApiError::invalid(field, format!("{text:?} is none"));
    value.map(Some).ok_or_else(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(started: u64, id: &str) -> Place {
        Place {
            started: Moment(started),
            id: id.into(),
        }
    }

    fn takes(query: &str, place: &Place, record: &SandboxRecord) -> bool {
        Wanted::parse(query).unwrap().takes(place, record)
    }

    #[test]
    fn filters_are_all_to_hold() {
        let record = SandboxRecord {
            template: "base".into(),
            metadata: [("a b".to_owned(), "1&2".to_owned())].into(),
            ..SandboxRecord::default()
        };
        let here = place(5000, "i1");
        for (query, expect) in [
            ("", true),
            ("state=running", true),
            ("state=paused", false),
            ("state=paused,running", true),
            ("template=base", true),
            ("template=other", false),
            // urlencode({"metadata": urlencode({quote("a b"): quote("1&2")})})
            ("metadata=a%252520b%3D1%2525262", true),
            ("metadata=a%252520b%3D1%252526", false),
            ("metadata=c%3D1", false),
            ("startedAfter=1970-01-01T00:00:04Z", true),
            ("startedAfter=1970-01-01T00:00:05Z", false),
        ] {
            assert_eq!(takes(query, &here, &record), expect, "{query}");
        }
    }

    #[test]
    fn a_page_goes_on_after_the_last_one_in_either_order() {
        let record = SandboxRecord::default();
        let token = place(5000, "i1").to_string();
        let descending = format!("nextToken={token}");
        let ascending = format!("order=asc&nextToken={token}");
        for (there, down, up) in [
            (place(4000, "i9"), true, false),
            (place(5000, "i0"), true, false),
            (place(5000, "i1"), false, false),
            (place(5000, "i2"), false, true),
        ] {
            assert_eq!(takes(&descending, &there, &record), down, "{there}");
            assert_eq!(takes(&ascending, &there, &record), up, "{there}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (query, field) in [
            ("state=dead", "state"),
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("startedAfter=noon", "startedAfter"),
            ("nextToken=1", "nextToken"),
        ] {
            let error = Wanted::parse(query).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
