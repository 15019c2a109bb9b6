//! What the end-to-end tests stand on. Nothing here uses the host's code to judge the host: events are made, topics
//! dumped and tables read by other means.
//!
//! | module | owns |
//! |---|---|
//! | [`paths`] | where things are; scratch folders |
//! | [`process`] | children that never outlive us |
//! | [`kafka`] | a real Apache Kafka, started, killed and restarted |
//! | [`jars`] | programs that Maven fetches |
//! | [`rest_catalog`] | Iceberg's own REST catalog server |
//! | [`s3`] | an S3 store that verifies signatures |
//! | [`topic`] | topics made, filled and dumped |
//! | [`events`] | seeded ad events, and every kind of bad message |
//! | [`guests`] | versions of a plugin to swap |
//! | [`pipeline`] | pipeline files |
//! | [`millrace`] | the program under test |
//! | [`api`] | what a running one answers |
//! | [`windows`] | SQL that puts events into windows |
//! | [`oracle`] | DuckDB and PyIceberg say what is right |

pub mod api;
pub mod events;
pub mod guests;
pub mod jars;
pub mod kafka;
pub mod millrace;
pub mod oracle;
pub mod paths;
pub mod pipeline;
pub mod process;
pub mod rest_catalog;
pub mod s3;
pub mod topic;
pub mod windows;
