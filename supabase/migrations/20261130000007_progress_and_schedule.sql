-- Progress: each change of a job's status is broadcast on its owner's private channel. No prompt and no URL is in the message; clients read
-- the row, also when they (re)connect, because messages are not kept.

create function private.broadcast_job() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform realtime.send(
    jsonb_build_object('id', new.id, 'status', new.status, 'error_code', new.error_code, 'attempts', new.attempts),
    'job', 'jobs:' || new.user_id, true
  );
  return null;
end $$;
create trigger broadcast_job after insert or update of status, attempts on public.jobs
for each row execute function private.broadcast_job();
create policy "owners follow their jobs" on realtime.messages for select to authenticated
  using (extension = 'broadcast' and (select realtime.topic()) = 'jobs:' || (select auth.uid())::text);

-- Rows, for clients that subscribe to changes of the tables instead (`postgres_changes`). Realtime sends each change to those who may select
-- the row. The replica identity stays the primary key: a full one would write every old request and prompt to the log again, and a deletion,
-- to which no policy applies, tells no more than the id.
do $$
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  if not (select puballtables from pg_publication where pubname = 'supabase_realtime') then
    alter publication supabase_realtime add table public.jobs, public.workspace_assets;
  end if;
end $$;

-- The schedule: pg_cron calls an edge function through pg_net. The Vault holds the project's URL (`project_url`) and a secret key
-- (`cron_key`); without both nothing is called.
create function private.call_function(name text) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  url text := (select decrypted_secret from vault.decrypted_secrets where vault.decrypted_secrets.name = 'project_url');
  key text := (select decrypted_secret from vault.decrypted_secrets where vault.decrypted_secrets.name = 'cron_key');
begin
  if url is null or key is null then return null; end if;
  return net.http_post(
    url := url || '/functions/v1/' || name, body := '{}'::jsonb,
    headers := jsonb_build_object('Content-Type', 'application/json', 'apikey', key), timeout_milliseconds := 30000
  );
end $$;
revoke execute on all functions in schema private from public;

do $$
begin
  if exists (select from pg_available_extensions where name = 'pg_cron') then
    create extension if not exists pg_cron with schema pg_catalog;
  end if;
  if exists (select from pg_available_extensions where name = 'pg_net') then
    create extension if not exists pg_net with schema extensions;
  end if;
end $$;
-- RunPod forgets a result after 30 minutes: reconcile has to look well within that time.
select cron.schedule('reconcile-jobs', '* * * * *', $$ select private.call_function('reconcile') $$);
select cron.schedule('clean-up', '17 * * * *', $$ select private.call_function('clean-up') $$);
