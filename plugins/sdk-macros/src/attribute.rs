//! `#[aggregation]`, `#[transform]`, `#[join]`: fill in what the author need not write, and export the component.

use crate::migrations;
use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Result, ReturnType, Token, parse_quote};

/// What the three attributes differ in.
pub struct Kind {
    /// the trait below the attribute
    pub of: &'static str,
    pub keys: &'static [&'static str],
    types: &'static [&'static str],
    functions: &'static [Function],
    plugin: &'static str,
    lowered: [&'static str; 2],
    export: &'static str,
}

/// A function of the trait, and the associated type that names what it returns.
struct Function {
    name: &'static str,
    /// parameters besides `self`
    parameters: usize,
    form: &'static str,
    returns: &'static str,
    takes: Receiver,
    /// it may be left away
    default: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Receiver {
    Ref,
    Mut,
    /// the trait wants `&mut self`, and what is written with `&self` is made that
    Either,
}

const NEW: &str = "fn new(options: &Self::Config) -> Self";

pub const AGGREGATION: Kind = Kind {
    of: "Aggregation",
    keys: &["name", "version", "ordered"],
    types: &["Input", "Output"],
    functions: &[
        Function {
            name: "update",
            parameters: 1,
            form: "fn update(&mut self, row: Self::Input<'_>)",
            returns: "Update",
            takes: Receiver::Mut,
            default: false,
        },
        Function {
            name: "merge",
            parameters: 1,
            form: "fn merge(&mut self, other: &Self)",
            returns: "",
            takes: Receiver::Mut,
            default: false,
        },
        Function {
            name: "evaluate",
            parameters: 1,
            form: "fn evaluate(&self, window: &Window) -> Self::Output",
            returns: "Evaluated",
            takes: Receiver::Ref,
            default: false,
        },
    ],
    plugin: "aggregation::Plugin",
    lowered: ["Accumulator", "rows::Rows"],
    export: "export_aggregation",
};

pub const TRANSFORM: Kind = Kind {
    of: "Transform",
    keys: &["name", "version"],
    types: &["Input"],
    functions: &[Function {
        name: "process",
        parameters: 1,
        form: "fn process(&self, row: Self::Input<'_>) -> Self::Output",
        returns: "Processed",
        takes: Receiver::Either,
        default: false,
    }],
    plugin: "transform::TransformPlugin",
    lowered: ["Transformer", "transform::Rows"],
    export: "export_transform",
};

pub const JOIN: Kind = Kind {
    of: "Join",
    keys: &["name", "version"],
    types: &["Left", "Right", "Output"],
    functions: &[
        Function {
            name: "pair",
            parameters: 2,
            form: "fn pair(&self, left: Self::Left<'_>, right: Self::Right<'_>) -> Self::Output",
            returns: "Paired",
            takes: Receiver::Ref,
            default: false,
        },
        Function {
            name: "unmatched",
            parameters: 1,
            form: "fn unmatched(&self, row: OneSide<Self::Left<'_>, Self::Right<'_>>) -> Option<Self::Output>",
            returns: "Unmatched",
            takes: Receiver::Ref,
            default: true,
        },
    ],
    plugin: "join::JoinPlugin",
    lowered: ["Joiner", "join::Pairs"],
    export: "export_join",
};

/// `name = "…", version = "…"`, and `ordered` of an aggregation.
#[derive(Default)]
pub struct Arguments {
    given: Vec<(Ident, Option<LitStr>)>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut given = Vec::new();
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            let value = match input.parse::<Option<Token![=]>>()? {
                Some(_) => Some(input.parse()?),
                None => None,
            };
            given.push((key, value));
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(Self { given })
    }
}

impl Arguments {
    fn check(&self, kind: &Kind) -> Result<()> {
        for (i, (key, value)) in self.given.iter().enumerate() {
            let name = key.to_string();
            if !kind.keys.contains(&name.as_str()) {
                return Err(Error::new(key.span(), format!("unknown argument; there are: {}", kind.keys.join(", "))));
            }
            if self.given.iter().take(i).any(|(other, _)| other == key) {
                return Err(Error::new(key.span(), format!("`{name}` is given twice")));
            }
            match (name == "ordered", value) {
                (true, Some(value)) => return Err(Error::new(value.span(), "`ordered` stands alone")),
                (false, None) => return Err(Error::new(key.span(), format!("write `{name} = \"…\"`"))),
                _ => {}
            }
        }
        Ok(())
    }

    fn text(&self, wanted: &str) -> Result<&LitStr> {
        let found = self.given.iter().find(|(key, _)| key == wanted).and_then(|(_, value)| value.as_ref());
        found.ok_or_else(|| Error::new(proc_macro2::Span::call_site(), format!("`{wanted} = \"…\"` is missing")))
    }

    fn name(&self) -> Result<&LitStr> {
        let name = self.text("name")?;
        if name.value().is_empty() { Err(Error::new(name.span(), "the name is empty")) } else { Ok(name) }
    }

    fn version(&self) -> Result<&LitStr> {
        let version = self.text("version")?;
        let numbers = version.value();
        let core = numbers.split(['-', '+']).next().unwrap_or_default();
        if core.split('.').count() != 3 || core.split('.').any(|n| n.parse::<u64>().is_err()) {
            return Err(Error::new(version.span(), "a version is MAJOR.MINOR.PATCH, as in \"1.0.0\""));
        }
        Ok(version)
    }
}

pub fn expand(kind: &Kind, arguments: &Arguments, mut item: ItemImpl) -> Result<TokenStream> {
    arguments.check(kind)?;
    let (name, version) = (arguments.name()?, arguments.version()?);
    let of = item.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
    if of.is_none_or(|segment| segment.ident != kind.of) {
        return Err(Error::new(item.self_ty.span(), format!("this belongs above an `impl {} for …`", kind.of)));
    }
    for ty in kind.types {
        if !has_type(&item, ty) {
            let lifetime = if *ty == "Output" { "" } else { "<'a>" };
            return Err(Error::new(item.self_ty.span(), format!("`type {ty}{lifetime} = …;` is missing")));
        }
    }
    let mut added: Vec<ImplItem> = Vec::new();
    if !has_type(&item, "Config") {
        added.push(parse_quote!(
            type Config = ();
        ));
    }
    if !has_type(&item, "Output") {
        added.push(parse_quote!(
            type Output = ();
        ));
    }
    match function(&mut item, "new") {
        Some(new) => check_parameters(new, None, 1, NEW)?,
        None => {
            let ty = &item.self_ty;
            let default = quote_spanned!(ty.span()=> <#ty as ::std::default::Default>::default());
            added.push(parse_quote! {
                fn new(_: &Self::Config) -> Self {
                    #default
                }
            });
        }
    }
    for wanted in kind.functions {
        let returned: syn::Type = match function(&mut item, wanted.name) {
            Some(written) => {
                check_parameters(written, Some(wanted.takes), wanted.parameters, wanted.form)?;
                match &written.sig.output {
                    ReturnType::Default => parse_quote!(()),
                    ReturnType::Type(_, ty) => (**ty).clone(),
                }
            }
            None if wanted.default => {
                added.push(parse_quote! {
                    fn unmatched(
                        &self, _: ::millrace_plugin::join::OneSide<Self::Left<'_>, Self::Right<'_>>,
                    ) -> ::std::option::Option<Self::Output> {
                        ::std::option::Option::None
                    }
                });
                parse_quote!(::std::option::Option<Self::Output>)
            }
            None => return Err(Error::new(item.self_ty.span(), format!("`{}` is missing", wanted.form))),
        };
        if !wanted.returns.is_empty() {
            let associated = format_ident!("{}", wanted.returns);
            added.push(parse_quote!(type #associated = #returned;));
        }
    }
    added.push(parse_quote!(const NAME: &'static str = #name;));
    added.push(parse_quote!(const VERSION: &'static str = #version;));
    let mut beside = TokenStream::new();
    if kind.keys.contains(&"ordered") {
        let ordered = arguments.given.iter().any(|(key, _)| key == "ordered");
        added.push(parse_quote!(const ORDERED: bool = #ordered;));
        let migrations = migrations::take(&mut item)?;
        added.push(migrations.constant);
        beside = migrations.functions;
    }
    item.items.extend(added);
    let ty = &item.self_ty;
    let path = |path: &str| syn::parse_str::<syn::Path>(&format!("::millrace_plugin::{path}"));
    let [associated, lowered] = kind.lowered;
    let (plugin, lowered, export) = (path(kind.plugin)?, path(lowered)?, path(kind.export)?);
    let associated = format_ident!("{associated}");
    Ok(quote! {
        #item

        #beside

        #[automatically_derived]
        impl #plugin for #ty {
            type #associated = #lowered<#ty>;
        }

        #export!(#ty);
    })
}

fn has_type(item: &ItemImpl, name: &str) -> bool {
    item.items.iter().any(|i| matches!(i, ImplItem::Type(t) if t.ident == name))
}

fn function<'a>(item: &'a mut ItemImpl, name: &str) -> Option<&'a mut ImplItemFn> {
    item.items.iter_mut().find_map(|i| match i {
        ImplItem::Fn(f) if f.sig.ident == name => Some(f),
        _ => None,
    })
}

/// The compiler would say what is wrong with a signature in terms of the trait; this says what to write.
fn check_parameters(written: &mut ImplItemFn, takes: Option<Receiver>, parameters: usize, form: &str) -> Result<()> {
    let wrong = Error::new(written.sig.ident.span(), format!("write `{form}`"));
    let mut inputs = written.sig.inputs.iter_mut().peekable();
    if let Some(takes) = takes {
        let Some(FnArg::Receiver(receiver)) = inputs.next() else { return Err(wrong) };
        let is_mut = receiver.mutability.is_some();
        if receiver.reference.is_none() || (takes == Receiver::Mut && !is_mut) || (takes == Receiver::Ref && is_mut) {
            return Err(wrong);
        }
        if takes == Receiver::Either && !is_mut {
            *receiver = parse_quote!(&mut self);
        }
    }
    if inputs.any(|input| matches!(input, FnArg::Receiver(_))) {
        return Err(wrong);
    }
    let found = written.sig.inputs.iter().filter(|i| matches!(i, FnArg::Typed(_))).count();
    if found == parameters { Ok(()) } else { Err(wrong) }
}
