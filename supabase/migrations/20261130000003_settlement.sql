-- The state machine of jobs. Each function is one statement for its caller, hence one transaction: a change happens whole or not at all.
--
--   queued -> processing -> completed | failed | cancelled      retryable failure: -> queued, after a delay
--   failed -> completed                                         a worker stored pending assets after all
--
-- completed and cancelled are final. A failure counts only if it is of the current attempt; a result counts from any attempt, because all
-- attempts send the same request with the same seed, and so make the same files.

-- Requests that a run is stopped. The caller of the function that requests it sends it to RunPod and deletes the row once it is confirmed.
create function private.request_cancellation(endpoint text, runpod_id text) returns void
language sql set search_path = '' as $$
  insert into private.cancellations (endpoint, runpod_id) values (endpoint, runpod_id) on conflict do nothing
$$;

-- How long to wait before the attempt after attempt number `attempts`. A worker's outbox may still store pending assets, so it gets time.
create function private.retry_delay(attempts int, assets_pending boolean) returns interval
language sql immutable set search_path = '' as $$
  select case when assets_pending then interval '10 minutes' else interval '15 seconds' * power(2, least(attempts, 10)) end
$$;

-- Ends the jobs that wait for `parent` as it ended itself.
create function private.end_children(parent uuid, new_status text) returns void
language sql set search_path = '' as $$
  update public.jobs
  set status = new_status, completed_at = now(), next_attempt_at = null,
      error_code = case new_status when 'failed' then 'ENHANCEMENT_FAILED' end,
      error_message = case new_status when 'failed' then 'The prompt could not be enhanced.' end,
      retryable = case new_status when 'failed' then true end
  where parent_id = parent and status = 'queued' and attempts = 0
$$;

-- Records a failure: queues the job again after `delay` if another attempt may help, else ends it. Without a delay it ends. Returns the new
-- status.
create function private.fail_job(
  job public.jobs, code text, message text, may_retry boolean, delay interval, payload_metadata jsonb default null
) returns text
language plpgsql set search_path = '' as $$
declare
  retries boolean := coalesce(may_retry and job.attempts < job.max_attempts and now() + delay < job.deadline, false);
  new_status text := case when code = 'CANCELLED' then 'cancelled' when retries then 'queued' else 'failed' end;
begin
  update public.jobs
  set status = new_status, error_code = code, error_message = message, retryable = may_retry,
      result = coalesce(payload_metadata, result), runpod_id = case when new_status = 'queued' then null else runpod_id end,
      earlier_runpod_ids = case when new_status = 'queued' and runpod_id is not null then earlier_runpod_ids || runpod_id else earlier_runpod_ids end,
      next_attempt_at = case when new_status = 'queued' then now() + delay end,
      started_at = case when new_status = 'queued' then null else started_at end,
      completed_at = case when new_status <> 'queued' then now() end
  where id = job.id;
  if new_status <> 'queued' then
    perform private.end_children(job.id, new_status);
  end if;
  return new_status;
end $$;

-- Inserts the assets of a completed payload. Owner and prompt are the row's, never the payload's.
create function private.insert_assets(job public.jobs, payload jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  folder text := job.user_id || '/' || job.id || '/';
begin
  if exists (
    select from jsonb_array_elements(payload -> 'assets') as a,
      unnest(array[a ->> 'temp_storage_path', a ->> 'thumbnail_path']) as path
    where path is not null and (not starts_with(path, folder) or path ~ '(^|/)\.\.?(/|$)')
  ) then
    raise exception 'An asset is outside the folder of its job.' using errcode = '22023';
  end if;
  insert into public.workspace_assets (
    user_id, job_id, asset_type, temp_storage_path, thumbnail_path, content, file_size_bytes, mime_type, duration_seconds,
    asset_index, generation_seed, width, height, original_prompt, model_used, generation_settings
  )
  select
    job.user_id, job.id, a ->> 'type', a ->> 'temp_storage_path', a ->> 'thumbnail_path', a ->> 'content', (a ->> 'file_size_bytes')::bigint,
    a ->> 'mime_type', (a ->> 'duration_seconds')::numeric, (a ->> 'asset_index')::int, (a ->> 'generation_seed')::bigint,
    (a #>> '{metadata,width}')::int, (a #>> '{metadata,height}')::int, job.original_prompt,
    coalesce(payload #>> '{metadata,model_used}', a #>> '{metadata,model_used}'),
    coalesce(a -> 'metadata', '{}') || case when a ? 'extras' then jsonb_build_object('extras', a -> 'extras') else '{}' end
  from jsonb_array_elements(payload -> 'assets') as a;
end $$;

-- Gives the enhanced prompt to the generation that waits for it. Returns the ids of the jobs that are due now.
create function private.release_children(parent uuid, enhanced text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  released jsonb;
  prompt text := btrim(enhanced, E' \t\r\n');
begin
  if coalesce(prompt, '') = '' then
    perform private.end_children(parent, 'failed');
    return jsonb '[]';
  end if;
  with children as (
    update public.jobs
    set enhanced_prompt = prompt, request = jsonb_set(request, '{prompt}', to_jsonb(prompt)), next_attempt_at = now()
    where parent_id = parent and status = 'queued' and attempts = 0
    returning id
  )
  select coalesce(jsonb_agg(id), '[]') into released from children;
  return released;
end $$;

create function private.complete_job(job public.jobs, payload jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  enhanced text := coalesce(payload ->> 'enhanced_prompt', payload ->> 'response');
begin
  update public.jobs
  set status = 'completed', completed_at = now(), error_code = null, error_message = null, retryable = null, next_attempt_at = null,
      result = payload -> 'metadata', runpod_id = coalesce(payload #>> '{metadata,runpod_id}', runpod_id),
      started_at = coalesce(started_at, now() - coalesce((payload #>> '{metadata,processing_time}')::numeric, 0) * interval '1 second')
  where id = job.id;
  perform private.insert_assets(job, payload);
  return private.release_children(job.id, enhanced);
end $$;

-- Applies a payload of a worker. Returns {"result", "ready", "superfluous"}:
--   result       unknown | final | superseded | processing | queued | completed | failed | cancelled
--   ready        ids of jobs that waited for this one and are due now
--   superfluous  RunPod's id of an attempt that is no longer needed; its cancellation is requested
create function public.settle_job(payload jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  job public.jobs;
  news text := payload ->> 'status';
  attempt text := payload #>> '{metadata,runpod_id}';
  code text := payload #>> '{metadata,error_code}';
  pending boolean := coalesce(jsonb_array_length(nullif(payload #> '{metadata,assets_pending}', 'null')), 0) > 0;
  ready jsonb := jsonb '[]';
  superfluous text;
  outcome text;
begin
  if news is null or news not in ('processing', 'completed', 'failed') then
    raise exception 'The status of a payload is processing, completed or failed.' using errcode = '22023';
  end if;
  select * into job from public.jobs where id = (payload ->> 'job_id')::uuid for update;
  if not found then
    outcome := 'unknown';
  elsif job.status in ('completed', 'cancelled') or (job.status = 'failed' and news <> 'completed') then
    outcome := 'final';
    -- A run that was not known when the job ended, because RunPod's answer to its submission was lost.
    superfluous := case when news = 'processing' and attempt is distinct from job.runpod_id then attempt end;
  elsif news = 'completed' then
    superfluous := case when job.status <> 'failed' and job.runpod_id <> attempt then job.runpod_id end;
    ready := private.complete_job(job, payload);
    outcome := 'completed';
  elsif job.attempts = 0 or attempt = any (job.earlier_runpod_ids) or (job.runpod_id is not null and job.runpod_id is distinct from attempt) then
    outcome := 'superseded';
  elsif news = 'processing' then
    update public.jobs
    set status = 'processing', started_at = coalesce(started_at, now()), runpod_id = attempt, next_attempt_at = null where id = job.id;
    outcome := 'processing';
  else
    -- The answer of the submission may not have arrived yet; then this is how its id becomes known.
    update public.jobs set runpod_id = attempt where id = job.id and runpod_id is null;
    outcome := private.fail_job(
      job, code, payload ->> 'error_message', coalesce((payload #>> '{metadata,retryable}')::boolean, false),
      private.retry_delay(job.attempts, pending), payload -> 'metadata'
    );
  end if;
  if superfluous is not null then
    perform private.request_cancellation(job.endpoint, superfluous);
  end if;
  return jsonb_build_object('result', outcome, 'ready', ready, 'superfluous', superfluous, 'endpoint', job.endpoint);
end $$;

revoke execute on all functions in schema private from public;
revoke execute on function public.settle_job from public, anon, authenticated;
grant execute on function public.settle_job to service_role;
