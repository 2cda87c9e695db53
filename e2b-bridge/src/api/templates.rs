// SPDX-License-Identifier: Apache-2.0
//! `/templates`: those of the configuration whose image is there, and what a name means.

use axum::Json;
use axum::extract::{Path, State};
use cube_containerd::ContainerdError;
use serde::Serialize;

use super::Api;
use super::model::ENVD_VERSION;
use crate::error::ApiError;
use crate::keys::Caller;
use crate::template::{self, TemplateConfig};

/// One template. Nothing about sizes and dates is known before a sandbox runs, so nothing is said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedTemplate {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    public: bool,
    names: Vec<String>,
    aliases: Vec<String>,
    envd_version: &'static str,
    build_status: &'static str,
}

impl ListedTemplate {
    fn of(template: &TemplateConfig, chain_id: &str) -> Self {
        let name = std::slice::from_ref(&template.name);
        let names = [name, template.aliases.as_slice()].concat();
        Self {
            template_id: template.name.clone(),
            build_id: chain_id.to_owned(),
            public: true,
            aliases: names.clone(),
            names,
            envd_version: ENVD_VERSION,
            build_status: "ready",
        }
    }
}

/// What an alias stands for.
#[derive(Debug, Serialize)]
pub struct AliasAnswer {
    #[serde(rename = "templateID")]
    template_id: String,
    public: bool,
}

/// `GET /templates`
pub async fn list(
    _: Caller,
    State(api): State<Api>,
) -> Result<Json<Vec<ListedTemplate>>, ApiError> {
    let mut found = Vec::new();
    for template in &api.sandboxes.settings().templates {
        match look_up(&api, template).await {
            Ok(listed) => found.push(listed),
            Err(ApiError::NoTemplate { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Json(found))
}

/// `GET /templates/{id}`
pub async fn detail(
    _: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ListedTemplate>, ApiError> {
    let template = template::resolve(&api.sandboxes.settings().templates, &name);
    Ok(Json(look_up(&api, &template).await?))
}

/// `GET /templates/aliases/{alias}`
pub async fn alias(
    _: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<AliasAnswer>, ApiError> {
    let template = template::resolve(&api.sandboxes.settings().templates, &name);
    let found = look_up(&api, &template).await?;
    Ok(Json(AliasAnswer {
        template_id: found.template_id,
        public: found.public,
    }))
}

/// `DELETE /templates/{id}`: all there are belong to whoever runs this server.
pub async fn delete(
    _: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<()>, ApiError> {
    let template = template::resolve(&api.sandboxes.settings().templates, &name);
    look_up(&api, &template).await?;
    Err(ApiError::ForeignTemplate { name })
}

async fn look_up(api: &Api, template: &TemplateConfig) -> Result<ListedTemplate, ApiError> {
    match api.sandboxes.containerd().image(&template.image).await {
        Ok(image) => Ok(ListedTemplate::of(template, image.chain_id())),
        Err(ContainerdError::NoImage { .. }) => Err(ApiError::NoTemplate {
            name: template.name.clone(),
        }),
        Err(error) => Err(error.into()),
    }
}
