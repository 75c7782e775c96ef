//! Names of images.

use crate::context::Context;

/// Annotation with the proxy's image: complete, or only its name.
const PROXY_IMAGE: &str = "sidecar.istio.io/proxyImage";
/// Annotation with the variant.
const PROXY_IMAGE_TYPE: &str = "sidecar.istio.io/proxyImageType";
/// What variants a tag may end in already.
const VARIANTS: &[&str] = &["-distroless", "-debug"];

/// The image of the proxy.
pub(crate) fn proxy(context: &Context<'_>) -> String {
    let variant = context
        .proxy_config
        .image
        .as_ref()
        .map(|image| image.image_type.as_str());
    image(context, "global.proxy.image", variant.unwrap_or_default())
}

/// The image of the init container.
pub(crate) fn init(context: &Context<'_>) -> String {
    image(context, "global.proxy_init.image", "")
}

fn image(context: &Context<'_>, path: &str, variant: &str) -> String {
    let values = &context.settings.values;
    let named = values.text_or(path, "proxy");
    // The annotation counts where it is complete; a bare name never did.
    let asked = context.annotation(PROXY_IMAGE).unwrap_or(&named);
    if asked.contains('/') {
        return asked.to_owned();
    }
    let variant = match context.annotation(PROXY_IMAGE_TYPE) {
        Some(asked) => asked.to_owned(),
        None if variant.is_empty() => values.text("global.variant"),
        None => variant.to_owned(),
    };
    let tag = with_variant(&values.text("global.tag"), &variant);
    format!("{}/{named}:{tag}", values.text("global.hub"))
}

fn with_variant(tag: &str, variant: &str) -> String {
    if variant.is_empty() {
        return tag.to_owned();
    }
    let bare = VARIANTS.iter().find_map(|known| tag.strip_suffix(known)).unwrap_or(tag);
    match variant {
        "default" => bare.to_owned(),
        variant => format!("{bare}-{variant}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_replace_one_another() {
        assert_eq!(with_variant("1.2", ""), "1.2");
        assert_eq!(with_variant("1.2", "debug"), "1.2-debug");
        assert_eq!(with_variant("1.2-debug", "distroless"), "1.2-distroless");
        assert_eq!(with_variant("1.2-debug", "default"), "1.2");
    }
}
