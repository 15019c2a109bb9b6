//! Functions under `#[migrate]`: no part of the trait, so they move into an `impl` of the type's own, and the trait's list of
//! migrations names them.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Result, ReturnType, Token, Type,
    parse_quote,
};

const ATTRIBUTE: &str = "write `#[migrate(from = \"1.x\")]`";
const FORM: &str = "write `fn from_v1(old: OldState, origin: &Origin, options: &Options) -> Option<Self>`; the last two \
    parameters may be left away";

pub struct Migrations {
    /// `MIGRATIONS` of the trait
    pub constant: ImplItem,
    /// the functions themselves
    pub functions: TokenStream,
}

/// Takes the functions out of the `impl`.
pub fn take(item: &mut ItemImpl) -> Result<Migrations> {
    let is_migration = |i: &ImplItem| matches!(i, ImplItem::Fn(f) if f.attrs.iter().any(is_migrate));
    let (mut functions, mut entries) = (Vec::new(), Vec::new());
    for item in item.items.extract_if(.., |i| is_migration(i)) {
        if let ImplItem::Fn(mut function) = item {
            entries.push(entry(&mut function)?);
            functions.push(function);
        }
    }
    let ty = &item.self_ty;
    Ok(Migrations {
        constant: parse_quote! {
            const MIGRATIONS: &'static [::millrace_plugin::migrate::Migration<Self>] = &[#(#entries),*];
        },
        functions: if functions.is_empty() { TokenStream::new() } else { quote!(impl #ty { #(#functions)* }) },
    })
}

fn is_migrate(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|segment| segment.ident == "migrate")
}

fn entry(function: &mut ImplItemFn) -> Result<TokenStream> {
    let name = &function.sig.ident;
    let mut from = None;
    for attribute in function.attrs.extract_if(.., |a| is_migrate(a)) {
        if from.is_some() {
            return Err(Error::new(attribute.span(), "one `#[migrate]` a function"));
        }
        from = Some(attribute.parse_args_with(versions).map_err(|e| match attribute.meta.require_list() {
            Ok(_) => e,
            Err(_) => Error::new(attribute.span(), ATTRIBUTE),
        })?);
    }
    let old = old_state(function)?;
    let all = [quote!(old), quote!(origin), quote!(options)];
    let given = all.iter().take(function.sig.inputs.len());
    let state = quote_spanned!(old.span()=> <#old as ::millrace_plugin::state::State>);
    let returned = match &function.sig.output {
        ReturnType::Type(_, ty) => ty.span(),
        ReturnType::Default => return Err(Error::new(name.span(), FORM)),
    };
    let migrated = quote_spanned!(returned=> ::millrace_plugin::migrate::Migrated::<Self>::migrated);
    let shown = name.to_string();
    Ok(quote! {
        ::millrace_plugin::migrate::Migration {
            name: #shown,
            from: #from,
            fields: #state::fields,
            migrate: |columns, row, origin, options| {
                let _ = (origin, options);
                let old = #state::import(columns, row)?;
                #migrated(Self::#name(#(#given),*))
            },
        }
    })
}

/// `from = "1.x"`
fn versions(input: ParseStream<'_>) -> Result<LitStr> {
    let key: Ident = input.parse().map_err(|_| input.error(ATTRIBUTE))?;
    if key != "from" {
        return Err(Error::new(key.span(), ATTRIBUTE));
    }
    input.parse::<Token![=]>()?;
    let from: LitStr = input.parse()?;
    let text = from.value();
    let mut numbers = text.split('.').skip_while(|part| part.parse::<u64>().is_ok());
    let is_open_ended = numbers.all(|part| part == "x");
    if !is_open_ended || text.starts_with('x') || text.split('.').count() > 3 {
        return Err(Error::new(from.span(), "versions are named as \"1\", \"1.x\", \"1.2.x\" or \"1.2.3\""));
    }
    if !input.is_empty() {
        return Err(input.error(ATTRIBUTE));
    }
    Ok(from)
}

/// The type of the first parameter.
fn old_state(function: &ImplItemFn) -> Result<&Type> {
    let wrong = || Error::new(function.sig.ident.span(), FORM);
    let inputs = &function.sig.inputs;
    if inputs.len() > 3 {
        return Err(wrong());
    }
    match inputs.first() {
        Some(FnArg::Typed(old)) if !matches!(*old.ty, Type::Reference(_)) => Ok(&old.ty),
        _ => Err(wrong()),
    }
}
