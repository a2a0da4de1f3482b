//! The agents that there are, as clients are shown them.

use ahp_types::state::{AgentCapabilities, AgentInfo, MultipleChatsCapability};
use hostler_agent::Catalogue;

/// All of a catalogue.
pub(super) fn agents(catalogue: &Catalogue) -> Vec<AgentInfo> {
    catalogue
        .iter()
        .map(|(name, spec)| AgentInfo {
            provider: name.to_owned(),
            display_name: name.to_owned(),
            description: spec.command.join(" "),
            models: Vec::new(),
            protected_resources: None,
            customizations: None,
            capabilities: Some(AgentCapabilities {
                multiple_chats: Some(MultipleChatsCapability {
                    fork: Some(true),
                    side_chat: None,
                }),
                multiple_working_directories: None,
            }),
        })
        .collect()
}
