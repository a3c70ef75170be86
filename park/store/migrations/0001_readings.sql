-- Raw readings and what the collector knows about them. All times are UTC instants; times of instruments and
-- arrival are the run's clock. Nothing here hinders `reading` from becoming a hypertable: its key holds the time
-- column, and no foreign key points at it.

create table park_version (
    id          bigint generated always as identity primary key,
    digest      text not null unique,           -- SHA-256 of the canonical JSON
    name        text not null,
    loaded_at   timestamptz not null default now(),
    document    jsonb not null                  -- the whole park, meters included, as park.model writes it
);
comment on table park_version is 'Every park description that results were computed with';

create table reading (
    meter       text not null check (meter <> ''),
    source_time timestamptz not null check (isfinite(source_time)),
    received_at timestamptz not null check (isfinite(received_at)),
    value       double precision check (value > '-Infinity' and value < 'Infinity'),     -- SI; null: no number came
    status      bigint not null check (status between 0 and 4294967295),                 -- OPC UA StatusCode
    primary key (meter, source_time)
);
create index reading_source_time on reading using brin (source_time) with (pages_per_range = 32, autosummarize = on);
comment on table reading is 'Raw readings in SI, each once; the first write of a key stays';

create table reading_conflict (
    id            bigint generated always as identity primary key,
    meter         text not null,
    source_time   timestamptz not null,
    received_at   timestamptz not null,
    value         double precision,
    status        bigint not null,
    stored_value  double precision,
    stored_status bigint not null
);
-- the same conflicting reading delivered twice is one conflict
create unique index reading_conflict_once
    on reading_conflict (meter, source_time, status, coalesce(value, 'NaN'::double precision));
comment on table reading_conflict is 'Readings whose key was already stored with another value or status';

create table gap (
    id         bigint generated always as identity primary key,
    source     text not null,                   -- opcua:<endpoint as configured> | mqtt
    meter      text,                            -- null: all meters of the source
    started_at timestamptz not null,
    ended_at   timestamptz,                     -- null: still open
    cause      text not null,
    check (ended_at >= started_at)
);
create index gap_source on gap (source, started_at);
comment on table gap is 'Times in which a source could not hold its readings, with the cause';

create table arrival (
    id           bigint generated always as identity primary key,
    period_start timestamptz not null,          -- first source_time of new rows
    period_end   timestamptz not null,          -- last source_time of new rows, included
    row_count    integer not null,
    received_at  timestamptz not null,          -- latest of its rows
    check (period_end >= period_start)
);
comment on table arrival is 'What each committed batch added, in commit order: ids below a seen one never appear later';

create table collector_source (
    source           text primary key,
    protocol         text not null,
    state            text not null,
    since            timestamptz not null,
    last_source_time timestamptz,
    last_received_at timestamptz,
    readings         bigint not null default 0,
    rejected         bigint not null default 0,
    detail           text
);
comment on table collector_source is 'One row a source: whether it is connected, since when, and what came from it';
