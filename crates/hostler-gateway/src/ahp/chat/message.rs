//! Messages of people, and content of agents: the protocol's way and ACP's.

use ahp_types::actions::{ChatResponsePartAction, StateAction};
use ahp_types::state::{
    Message, MessageAttachment, MessageEmbeddedResourceAttachment, MessageKind, MessageOrigin,
    MessageResourceAttachment, ResourceResponsePart, ResponsePart, ToolResultContent,
    ToolResultEmbeddedResourceContent, ToolResultResourceContent, ToolResultTextContent,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// A content block of ACP, as far as it is looked into.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    data: Option<String>,
    mime_type: Option<String>,
    uri: Option<String>,
    name: Option<String>,
    size: Option<i64>,
    resource: Option<Embedded>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Embedded {
    uri: String,
    mime_type: Option<String>,
    text: Option<String>,
    blob: Option<String>,
}

fn block(raw: &RawValue) -> Option<Block> {
    serde_json::from_str(raw.get()).ok()
}

/// The text of a block that is one.
pub(super) fn text_of(raw: &RawValue) -> Option<String> {
    let block = block(raw)?;
    block.text.filter(|_| block.kind == "text")
}

fn data_uri(mime: &str, data: &str) -> String {
    format!("data:{mime};base64,{data}")
}

/// A block that is no text, as a part of a response.
pub(super) fn part_of(raw: &RawValue) -> Option<ResponsePart> {
    let block = block(raw)?;
    let mime = block.mime_type;
    let (uri, content_type, size_hint) = match (&*block.kind, block.uri, block.resource) {
        ("image" | "audio", uri, _) => {
            let mime = mime.unwrap_or_else(|| "application/octet-stream".into());
            let uri = uri.or_else(|| block.data.map(|data| data_uri(&mime, &data)))?;
            (uri, Some(mime), None)
        }
        ("resource_link", Some(uri), _) => (uri, mime, block.size),
        ("resource", _, Some(resource)) => (resource.uri, resource.mime_type, None),
        _ => return None,
    };
    Some(ResponsePart::ContentRef(ResourceResponsePart {
        uri,
        size_hint,
        content_type,
        nonce: None,
    }))
}

/// A part that is added to a turn.
pub(super) fn part_action(turn_id: String, part: ResponsePart) -> StateAction {
    StateAction::ChatResponsePart(ChatResponsePartAction {
        turn_id,
        part,
        meta: None,
    })
}

/// A block as a part of a tool's result.
pub(super) fn result_of(raw: &RawValue) -> Option<ToolResultContent> {
    let block = block(raw)?;
    let mime = block.mime_type;
    Some(match (&*block.kind, block.text, block.data, block.uri) {
        ("text", Some(text), _, _) => ToolResultContent::Text(ToolResultTextContent { text }),
        ("image" | "audio", _, Some(data), _) => {
            ToolResultContent::EmbeddedResource(ToolResultEmbeddedResourceContent {
                data,
                content_type: mime.unwrap_or_else(|| "application/octet-stream".into()),
            })
        }
        ("resource_link", _, _, Some(uri)) => {
            ToolResultContent::Resource(ToolResultResourceContent {
                uri,
                size_hint: block.size,
                content_type: mime,
                nonce: None,
            })
        }
        _ => {
            let resource = block.resource?;
            match resource.text {
                Some(text) => ToolResultContent::Text(ToolResultTextContent { text }),
                None => ToolResultContent::Resource(ToolResultResourceContent {
                    uri: resource.uri,
                    size_hint: None,
                    content_type: resource.mime_type,
                    nonce: None,
                }),
            }
        }
    })
}

/// The message that a prompt of another kind of client is.
pub(super) fn of_prompt(params: &RawValue) -> Message {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Params {
        prompt: Vec<Block>,
    }
    let params: Params = serde_json::from_str(params.get()).unwrap_or_default();
    let mut texts = Vec::new();
    let mut attachments = Vec::new();
    for block in params.prompt {
        let label = |uri: &str| uri.rsplit('/').next().unwrap_or(uri).to_owned();
        match (
            &*block.kind,
            block.text,
            block.data,
            block.uri,
            block.resource,
        ) {
            ("text", Some(text), ..) => texts.push(text),
            ("image" | "audio", _, Some(data), ..) => {
                attachments.push(embedded(block.kind.clone(), data, block.mime_type));
            }
            ("resource_link", _, _, Some(uri), _) => {
                let label = block.name.unwrap_or_else(|| label(&uri));
                attachments.push(resource(label, uri, block.mime_type, block.size));
            }
            ("resource", _, _, _, Some(held)) => attachments.push(match held.blob {
                Some(data) => embedded(label(&held.uri), data, held.mime_type),
                None => resource(label(&held.uri), held.uri, held.mime_type, None),
            }),
            _ => {}
        }
    }
    Message {
        text: texts.join("\n"),
        origin: MessageOrigin {
            kind: MessageKind::User,
        },
        attachments: (!attachments.is_empty()).then_some(attachments),
        model: None,
        agent: None,
        meta: None,
    }
}

fn embedded(label: String, data: String, mime: Option<String>) -> MessageAttachment {
    MessageAttachment::EmbeddedResource(MessageEmbeddedResourceAttachment {
        label,
        range: None,
        display_kind: None,
        meta: None,
        data,
        content_type: mime.unwrap_or_else(|| "application/octet-stream".into()),
        selection: None,
    })
}

fn resource(
    label: String,
    uri: String,
    content_type: Option<String>,
    size_hint: Option<i64>,
) -> MessageAttachment {
    MessageAttachment::Resource(MessageResourceAttachment {
        label,
        range: None,
        display_kind: None,
        meta: None,
        uri,
        size_hint,
        content_type,
        nonce: None,
        selection: None,
    })
}

/// A message of a client, as the content blocks of a prompt.
pub(super) fn to_prompt(message: &Message) -> Vec<Value> {
    let mut blocks = Vec::new();
    if !message.text.is_empty() {
        blocks.push(json!({"type": "text", "text": message.text}));
    }
    for attachment in message.attachments.iter().flatten() {
        match attachment {
            MessageAttachment::Simple(simple) => {
                let text = simple
                    .model_representation
                    .as_ref()
                    .unwrap_or(&simple.label);
                blocks.push(json!({"type": "text", "text": text}));
            }
            MessageAttachment::EmbeddedResource(held) => {
                let kind = held.content_type.split('/').next().unwrap_or_default();
                blocks.push(match kind {
                    "image" | "audio" => {
                        json!({"type": kind, "data": held.data, "mimeType": held.content_type})
                    }
                    _ => {
                        let uri = format!("attachment:{}", held.label.replace(' ', "%20"));
                        json!({"type": "resource", "resource": {
                            "uri": uri, "blob": held.data, "mimeType": held.content_type,
                        }})
                    }
                });
            }
            MessageAttachment::Resource(resource) => {
                let mut block =
                    json!({"type": "resource_link", "uri": resource.uri, "name": resource.label});
                if let Some(mime) = &resource.content_type {
                    block["mimeType"] = mime.clone().into();
                }
                if let Some(size) = resource.size_hint {
                    block["size"] = size.into();
                }
                blocks.push(block);
            }
            MessageAttachment::Chat(chat) => {
                blocks.push(
                    json!({"type": "resource_link", "uri": chat.resource, "name": chat.label}),
                );
            }
            MessageAttachment::Annotations(_) | MessageAttachment::Unknown(_) => {}
        }
    }
    blocks
}
