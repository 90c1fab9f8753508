-- A stand-in for what a hosted Supabase project contains before its first migration, for a plain PostgreSQL 15 or later: roles, and the parts
-- of the schemas auth, storage, realtime, vault, cron and net that migrations and policies touch. Runs once, as the superuser
-- supabase_admin. As on a hosted project, migrations run as postgres, which is no superuser and bypasses row-level security, and new tables
-- are granted to no role.

-- Roles
create role postgres login createrole createdb bypassrls replication;
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
create role managed_schemas nologin;
grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres with admin option;
grant all on database postgres to postgres;
alter schema public owner to postgres;
create schema extensions;
grant usage on schema public, extensions to anon, authenticated, service_role, postgres;

-- auth: users, and the claims of the request as PostgREST sets them.
create schema auth;
grant usage on schema auth to postgres, anon, authenticated, service_role;
create table auth.users (id uuid primary key, email text, raw_app_meta_data jsonb, created_at timestamptz default now());
alter table auth.users enable row level security;
grant all on auth.users to postgres;
create function auth.jwt() returns jsonb language sql stable as $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
create function auth.uid() returns uuid language sql stable as $$ select (auth.jwt() ->> 'sub')::uuid $$;
create function auth.role() returns text language sql stable as $$ select auth.jwt() ->> 'role' $$;

-- storage: buckets, objects, path functions, and the refusal of deletion by SQL.
create schema storage;
grant usage on schema storage to postgres, anon, authenticated, service_role;
create table storage.buckets (
  id text primary key, name text not null unique, public boolean default false, file_size_limit bigint, allowed_mime_types text[],
  created_at timestamptz default now(), updated_at timestamptz default now()
);
create table storage.objects (
  id uuid primary key default gen_random_uuid(), bucket_id text references storage.buckets, name text, owner_id text, metadata jsonb,
  path_tokens text[] generated always as (string_to_array(name, '/')) stored,
  created_at timestamptz default now(), updated_at timestamptz default now(), unique (bucket_id, name)
);
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
grant all on storage.buckets, storage.objects to postgres, anon, authenticated, service_role;
create function storage.foldername(name text) returns text[] language sql immutable as $$
  select tokens[: cardinality(tokens) - 1] from string_to_array(name, '/') as tokens
$$;
create function storage.filename(name text) returns text language sql immutable as $$
  select tokens[cardinality(tokens)] from string_to_array(name, '/') as tokens
$$;
create function storage.refuse_delete() returns trigger language plpgsql as $$
begin
  if current_setting('storage.allow_delete_query', true) is distinct from 'true' then
    raise exception 'Direct deletion from storage tables is not allowed. Use the Storage API instead.' using errcode = '42501';
  end if;
  return null;
end $$;
create trigger refuse_delete before delete on storage.objects for each statement execute function storage.refuse_delete();

-- realtime: messages sent by the database, and what the service Realtime reads by logical replication.
create schema realtime;
grant usage on schema realtime to postgres, anon, authenticated, service_role;
create table realtime.messages (
  id uuid not null default gen_random_uuid(), topic text not null, extension text not null, event text, payload jsonb,
  private boolean default false, inserted_at timestamp not null default clock_timestamp()
);
alter table realtime.messages enable row level security;
grant select, insert on realtime.messages to postgres, anon, authenticated, service_role;
create publication supabase_realtime_messages_publication for table realtime.messages with (publish = 'insert');
create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
create function realtime.topic() returns text language sql stable as $$ select nullif(current_setting('realtime.topic', true), '') $$;
create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void language sql as $$
  insert into realtime.messages (payload, event, topic, private, extension) values (payload, event, topic, private, 'broadcast')
$$;

-- vault, pg_cron and pg_net record what they are given; a test runs it.
create schema vault;
create schema cron;
create schema net;
grant usage on schema vault, cron, net to postgres;
create table vault.secrets (id uuid primary key default gen_random_uuid(), name text unique, secret text not null);
create view vault.decrypted_secrets as select id, name, secret as decrypted_secret from vault.secrets;
create function vault.create_secret(new_secret text, new_name text) returns uuid language sql security definer as $$
  insert into vault.secrets (secret, name) values (new_secret, new_name) returning id
$$;
create function vault.update_secret(secret_id uuid, new_secret text) returns void language sql security definer as $$
  update vault.secrets set secret = new_secret where id = secret_id
$$;
grant select on vault.secrets, vault.decrypted_secrets to postgres;
create table cron.job (jobid bigint generated always as identity primary key, jobname text unique, schedule text, command text);
grant select on cron.job to postgres;
create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql security definer as $$
  insert into cron.job (jobname, schedule, command) values (job_name, schedule, command)
  on conflict (jobname) do update set schedule = excluded.schedule, command = excluded.command returning jobid
$$;
create table net.http_request_queue (
  id bigint generated always as identity primary key, url text, headers jsonb, body jsonb, timeout_milliseconds int
);
grant select on net.http_request_queue to postgres;
create function net.http_post(
  url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds int default 2000
) returns bigint language sql security definer as $$
  insert into net.http_request_queue (url, headers, body, timeout_milliseconds) values (url, headers, body, timeout_milliseconds) returning id
$$;

-- Hosted projects let postgres add policies to managed tables, which plain PostgreSQL allows owners only. So postgres is a member of their
-- owner, and an event trigger refuses whatever else this would permit.
alter table storage.buckets owner to managed_schemas;
alter table storage.objects owner to managed_schemas;
alter table realtime.messages owner to managed_schemas;
grant usage on schema storage, realtime to managed_schemas;
grant managed_schemas to postgres;
create function extensions.refuse_managed_changes() returns event_trigger language plpgsql security definer as $$
declare
  command record;
begin
  for command in select * from pg_event_trigger_ddl_commands() loop
    if session_user = 'postgres' and command.schema_name in ('auth', 'storage', 'realtime') and command.command_tag not like '%POLICY' then
      raise exception 'must be owner of %', command.object_identity using errcode = '42501';
    end if;
  end loop;
end $$;
create event trigger refuse_managed_changes on ddl_command_end execute function extensions.refuse_managed_changes();

create extension pgtap with schema extensions;
create extension plpgsql_check with schema extensions;
alter role postgres set search_path = "$user", public, extensions;
