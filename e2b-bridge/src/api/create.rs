// SPDX-License-Identifier: Apache-2.0
//! `POST /sandboxes` and `POST /v2/sandboxes`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::Value;

use super::model::CreatedSandbox;
use super::{Api, query};
use crate::error::{ApiError, Missing};
use crate::keys::Caller;
use crate::moment::Moment;
use crate::random;
use crate::sandbox::{NewSandbox, SandboxRecord};
use crate::{route, template};

/// What a sandbox lives if nobody says anything.
const TIMEOUT_V1: u64 = 15;
const TIMEOUT_V2: u64 = 300;
const TOKEN_DIGITS: usize = 40;
/// Bytes of metadata and environment; containerd's store takes megabytes, and so would a mistake.
const MAX_TEXT: usize = 256 << 10;

/// Both versions of the request; fields that are not named here are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CreateBody {
    #[serde(rename = "templateID")]
    template_id: String,
    timeout: Option<u64>,
    metadata: Option<BTreeMap<String, String>>,
    env_vars: Option<BTreeMap<String, String>>,
    auto_pause: Option<bool>,
    auto_resume: Option<AutoResume>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    network: Option<Value>,
    mcp: Option<Value>,
    iam: Option<Value>,
    volume_mounts: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AutoResume {
    enabled: bool,
}

/// Answers 201.
pub async fn v1(
    caller: Caller,
    State(api): State<Api>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Result<(StatusCode, Json<CreatedSandbox>), ApiError> {
    create(&caller, &api, &headers, &uri, &body, TIMEOUT_V1).await
}

/// Answers 201.
pub async fn v2(
    caller: Caller,
    State(api): State<Api>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Result<(StatusCode, Json<CreatedSandbox>), ApiError> {
    create(&caller, &api, &headers, &uri, &body, TIMEOUT_V2).await
}

async fn create(
    caller: &Caller,
    api: &Api,
    headers: &HeaderMap,
    uri: &Uri,
    body: &Bytes,
    default_timeout: u64,
) -> Result<(StatusCode, Json<CreatedSandbox>), ApiError> {
    let body: CreateBody = query::body(body)?;
    refuse_what_is_missing(&body)?;
    let settings = api.sandboxes.settings();
    let timeout = body.timeout.unwrap_or(default_timeout);
    check_timeout(timeout, settings.max_timeout_s)?;
    let template = template::resolve(&settings.templates, &body.template_id);
    let mut record = record(body)?;
    record.team = caller.team.clone();
    record.alias = settings
        .templates
        .iter()
        .any(|known| known.name == template.name)
        .then(|| template.name.clone());
    record.template = template.name.clone();
    let key = headers.get("idempotency-key");
    record.idempotency_key = key.and_then(|key| key.to_str().ok()).map(str::to_owned);
    let wanted = NewSandbox {
        record,
        template,
        timeout: Duration::from_secs(timeout),
    };
    let sandbox = api.sandboxes.create(caller, wanted).await?;
    let domain = domain(api, headers, uri);
    let answer = CreatedSandbox::of(&sandbox, domain);
    Ok((StatusCode::CREATED, Json(answer)))
}

/// A sandbox's life may not be longer than this.
pub fn check_timeout(seconds: u64, max: u64) -> Result<(), ApiError> {
    if seconds <= max {
        return Ok(());
    }
    let why = format!("{seconds} s is more than the {max} s that a sandbox may live");
    Err(ApiError::invalid("timeout", why))
}

/// The domain below which sandboxes have names.
pub fn domain(api: &Api, headers: &HeaderMap, uri: &Uri) -> String {
    let configured = api.sandboxes.settings().domain.clone();
    configured.unwrap_or_else(|| {
        let host = route::host(headers, uri).unwrap_or_default();
        host.strip_prefix("api.").unwrap_or(&host).to_owned()
    })
}

fn refuse_what_is_missing(body: &CreateBody) -> Result<(), ApiError> {
    let is_given = |value: &Option<Value>| match value {
        None | Some(Value::Null) => false,
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(_) => true,
    };
    let resumes = body.auto_resume.as_ref().is_some_and(|auto| auto.enabled);
    let egress = ["allowOut", "denyOut", "rules", "egressProxy"];
    let network = |field: &str| {
        body.network
            .as_ref()
            .is_some_and(|all| !is_empty(&all[field]))
    };
    let missing = [
        (body.auto_pause == Some(true) || resumes, Missing::Pause),
        (is_given(&body.mcp), Missing::Mcp),
        (is_given(&body.iam), Missing::Secrets),
        (
            body.volume_mounts
                .as_ref()
                .is_some_and(|all| !all.is_empty()),
            Missing::Volumes,
        ),
        (egress.into_iter().any(network), Missing::Egress),
    ];
    match missing.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(ApiError::Missing(what)),
        None => Ok(()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn record(body: CreateBody) -> Result<SandboxRecord, ApiError> {
    if body.template_id.is_empty() {
        return Err(ApiError::invalid("templateID", "it is missing"));
    }
    let (metadata, env) = (
        checked("metadata", body.metadata)?,
        checked("envVars", body.env_vars)?,
    );
    let network = body.network.filter(|network| !is_empty(network));
    let option = |name: &str| network.as_ref().map(|network| network[name].clone());
    let is_private = option("allowPublicTraffic") == Some(Value::Bool(false));
    let token = || random::hex(TOKEN_DIGITS).map_err(ApiError::Random);
    Ok(SandboxRecord {
        metadata,
        env,
        created: Moment::now(),
        access_token: token()?,
        traffic_token: is_private.then(token).transpose()?,
        mask_request_host: option("maskRequestHost")
            .as_ref()
            .and_then(Value::as_str)
            .map(str::to_owned),
        allow_internet_access: body.allow_internet_access,
        network,
        ..SandboxRecord::default()
    })
}

fn checked(
    field: &'static str,
    map: Option<BTreeMap<String, String>>,
) -> Result<BTreeMap<String, String>, ApiError> {
    let map = map.unwrap_or_default();
    let bytes: usize = map
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_TEXT {
        let why = format!("{bytes} bytes are more than {MAX_TEXT}");
        return Err(ApiError::invalid(field, why));
    }
    let broken = |(name, value): (&String, &String)| {
        field == "envVars"
            && (name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
    };
    if map.iter().any(broken) {
        return Err(ApiError::invalid(
            field,
            "a name is empty or has an `=`, or there is a NUL byte",
        ));
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<SandboxRecord, ApiError> {
        let body: CreateBody = query::body(&Bytes::copy_from_slice(json.as_bytes()))?;
        refuse_what_is_missing(&body)?;
        record(body)
    }

    #[test]
    fn what_sdks_send_is_understood() {
        for json in [
            r#"{"templateID":"tpl","metadata":{},"envVars":{}}"#,
            r#"{"templateID":"tpl"}"#,
            r#"{"templateID":"tpl","secure":true,"allow_internet_access":true,"autoPause":false,"timeout":300}"#,
            r#"{"templateID":"tpl","autoResume":{"enabled":false},"mcp":null,"volumeMounts":[],"network":{}}"#,
        ] {
            let record = read(json).unwrap();
            assert_eq!(record.access_token.len(), TOKEN_DIGITS);
            assert_eq!(record.traffic_token, None);
        }
    }

    #[test]
    fn private_traffic_has_a_token() {
        let json = r#"{"templateID":"t","network":{"allowPublicTraffic":false,"maskRequestHost":"x:${PORT}"}}"#;
        let record = read(json).unwrap();
        assert!(record.traffic_token.is_some());
        assert_eq!(record.mask_request_host.as_deref(), Some("x:${PORT}"));
    }

    #[test]
    fn what_is_missing_here_is_refused_and_not_ignored() {
        for (json, expect) in [
            (r#"{"templateID":"t","autoPause":true}"#, Missing::Pause),
            (
                r#"{"templateID":"t","autoResume":{"enabled":true}}"#,
                Missing::Pause,
            ),
            (r#"{"templateID":"t","mcp":{"x":{}}}"#, Missing::Mcp),
            (
                r#"{"templateID":"t","volumeMounts":[{"name":"v","path":"/v"}]}"#,
                Missing::Volumes,
            ),
            (
                r#"{"templateID":"t","network":{"denyOut":["0.0.0.0/0"]}}"#,
                Missing::Egress,
            ),
            (
                r#"{"templateID":"t","iam":{"tokens":[]}}"#,
                Missing::Secrets,
            ),
        ] {
            let error = read(json).unwrap_err();
            assert!(
                matches!(error, ApiError::Missing(what) if what == expect),
                "{json}: {error}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            "{",
            "[]",
            r#"{"metadata":{}}"#,
            r#"{"templateID":1}"#,
            r#"{"templateID":"t","envVars":{"A=B":"c"}}"#,
            r#"{"templateID":"t","timeout":-1}"#,
        ] {
            assert!(
                matches!(read(json), Err(ApiError::Invalid { .. })),
                "{json}"
            );
        }
        assert!(check_timeout(10, 9).is_err());
        check_timeout(9, 9).unwrap();
    }
}
