//! `#[aggregation]`: fills in what the author need not write, and exports the component.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, Ident, ImplItem, ItemImpl, LitStr, Result, ReturnType, Token, parse_quote};

pub struct Arguments {
    name: LitStr,
    version: LitStr,
    ordered: bool,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut name, mut version, mut ordered) = (None, None, false);
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            match key.to_string().as_str() {
                "ordered" => ordered = true,
                "name" | "version" => {
                    input.parse::<Token![=]>()?;
                    let value: LitStr = input.parse()?;
                    if key == "name" { name = Some(value) } else { version = Some(value) }
                }
                _ => return Err(Error::new(key.span(), "unknown argument; there are: name, version, ordered")),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let missing = |what: &str| Error::new(input.span(), format!("`{what} = \"…\"` is missing"));
        let new = Self {
            name: name.ok_or_else(|| missing("name"))?,
            version: version.ok_or_else(|| missing("version"))?,
            ordered,
        };
        if new.name.value().is_empty() {
            return Err(Error::new(new.name.span(), "the name is empty"));
        }
        let numbers = new.version.value();
        let core = numbers.split(['-', '+']).next().unwrap_or_default();
        if core.split('.').count() != 3 || core.split('.').any(|n| n.parse::<u64>().is_err()) {
            return Err(Error::new(new.version.span(), "a version is MAJOR.MINOR.PATCH, as in \"1.0.0\""));
        }
        Ok(new)
    }
}

pub fn expand(arguments: Arguments, mut item: ItemImpl) -> Result<TokenStream> {
    let is_aggregation = item
        .trait_
        .as_ref()
        .and_then(|(_, path, _)| path.segments.last())
        .is_some_and(|segment| segment.ident == "Aggregation");
    if !is_aggregation {
        return Err(Error::new(item.self_ty.span(), "this belongs above an `impl Aggregation for …`"));
    }
    let returns = |name: &str| {
        item.items.iter().find_map(|i| match i {
            ImplItem::Fn(f) if f.sig.ident == name => Some(match &f.sig.output {
                ReturnType::Default => parse_quote!(()),
                ReturnType::Type(_, ty) => (**ty).clone(),
            }),
            _ => None,
        })
    };
    let has_type = |name: &str| item.items.iter().any(|i| matches!(i, ImplItem::Type(t) if t.ident == name));
    let missing = |what: &str| Error::new(item.self_ty.span(), format!("`fn {what}` is missing"));
    let update: syn::Type = returns("update").ok_or_else(|| missing("update"))?;
    let evaluated: syn::Type = returns("evaluate").ok_or_else(|| missing("evaluate"))?;
    let mut added: Vec<ImplItem> =
        vec![parse_quote!(type Update = #update;), parse_quote!(type Evaluated = #evaluated;)];
    if !has_type("Config") {
        added.push(parse_quote!(
            type Config = ();
        ));
    }
    if returns("new").is_none() {
        added.push(parse_quote! {
            fn new(_: &Self::Config) -> Self {
                ::std::default::Default::default()
            }
        });
    }
    let Arguments { name, version, ordered } = arguments;
    added.push(parse_quote!(const NAME: &'static str = #name;));
    added.push(parse_quote!(const VERSION: &'static str = #version;));
    added.push(parse_quote!(const ORDERED: bool = #ordered;));
    item.items.extend(added);
    let ty = &item.self_ty;
    Ok(quote! {
        #item

        #[automatically_derived]
        impl ::millrace_plugin::aggregation::Plugin for #ty {
            type Accumulator = ::millrace_plugin::rows::Rows<#ty>;
        }

        #[cfg(target_arch = "wasm32")]
        ::millrace_plugin::export_aggregation!(#ty);
    })
}
