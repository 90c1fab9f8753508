-- Submission: rows first, then RunPod. A claimed job is submitted by its claimant alone; if that one dies, the claim expires.

create function private.claim_period() returns interval language sql immutable set search_path = '' as $$ select interval '2 minutes' $$;

-- The mean of the last 20 completed jobs of a type in seconds; null without any.
create function private.usual_seconds(type text) returns numeric
language sql stable set search_path = '' as $$
  select avg(seconds)
  from (
    select (result ->> 'processing_time')::numeric as seconds from public.jobs
    where job_type = type and status = 'completed' order by completed_at desc limit 20
  ) as recent
$$;

-- The quota that one more job of `owner` would exceed; null if none. An enhancement and its generation count as one job: the enhancement while
-- it is open, in the meantime the generation has no attempt and no time for one.
create function private.exceeded_quota(owner uuid, tier_name text) returns text
language plpgsql stable set search_path = '' as $$
declare
  tier public.tiers;
begin
  select * into tier from public.tiers where name in (tier_name, 'free') order by name = tier_name desc limit 1;
  if not found then return 'unknown_tier'; end if;
  if (
    select count(*) from public.jobs
    where user_id = owner and status in ('queued', 'processing')
      and not (parent_id is not null and attempts = 0 and next_attempt_at is null)
  ) >= tier.max_open_jobs then return 'max_open_jobs';
  end if;
  if (select count(*) from public.jobs where user_id = owner and created_at > now() - interval '1 day' and parent_id is null)
    >= tier.max_jobs_per_day then return 'max_jobs_per_day';
  end if;
  return null;
end $$;

-- How many open jobs an endpoint has before this one, plus one. It counts no further than to 1,000, so that a long queue costs no time.
create function private.place_in_queue(job public.jobs) returns bigint
language sql stable set search_path = '' as $$
  select count(*) + 1
  from (
    select from public.jobs
    where endpoint = job.endpoint and status in ('queued', 'processing') and created_at < job.created_at limit 999
  ) as before
$$;

create function private.insert_job(owner uuid, tier_name text, described jsonb, parent uuid, first boolean) returns public.jobs
language plpgsql set search_path = '' as $$
declare
  job public.jobs;
begin
  insert into public.jobs (
    id, user_id, tier, job_type, format, quality, model_type, original_prompt, request, metadata, max_attempts, parent_id, endpoint,
    expected_seconds, deadline, attempts, submitted_at, next_attempt_at
  ) values (
    (described ->> 'id')::uuid, owner, tier_name, described ->> 'job_type', described ->> 'format', described ->> 'quality', described ->> 'model_type',
    described ->> 'original_prompt', described -> 'request', coalesce(described -> 'metadata', '{}'),
    coalesce((described ->> 'max_attempts')::int, 3), parent, described ->> 'endpoint',
    coalesce(private.usual_seconds(described ->> 'job_type'), (described ->> 'expected_seconds')::numeric),
    now() + (described ->> 'patience_seconds')::numeric * interval '1 second',
    case when first then 1 else 0 end, case when first then now() end, case when first then now() + private.claim_period() end
  )
  returning * into job;
  return job;
end $$;

-- Inserts one job, or an enhancement and the generation that waits for it, the first claimed for its submission by the caller.
--   submission  {"owner", "tier", "jobs": [the enhancement, if any, and the job], "references": ["bucket/name", …]}
-- Returns {"outcome": created | exists | taken | quota | reference, "detail", "job", "first", "place"}.
create function public.submit_job(submission jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  owner uuid := (submission ->> 'owner')::uuid;
  described jsonb := submission #> '{jobs,-1}';
  job public.jobs;
  parent public.jobs;
  detail text;
begin
  -- Parallel submissions of one user would each pass the quotas.
  perform pg_advisory_xact_lock(hashtextextended(owner::text, 0));
  select * into job from public.jobs where id = (described ->> 'id')::uuid;
  if found then
    if job.user_id <> owner then return jsonb_build_object('outcome', 'taken'); end if;
    return jsonb_build_object('outcome', 'exists', 'job', to_jsonb(job), 'place', private.place_in_queue(job));
  end if;
  detail := private.exceeded_quota(owner, submission ->> 'tier');
  if detail is not null then return jsonb_build_object('outcome', 'quota', 'detail', detail); end if;
  select path into detail from jsonb_array_elements_text(submission -> 'references') as path
  where not exists (
    select from storage.objects where bucket_id = split_part(path, '/', 1) and name = substr(path, strpos(path, '/') + 1)
  ) limit 1;
  if found then return jsonb_build_object('outcome', 'reference', 'detail', detail); end if;

  if jsonb_array_length(submission -> 'jobs') = 2 then
    parent := private.insert_job(owner, submission ->> 'tier', submission #> '{jobs,0}', null, true);
    job := private.insert_job(owner, submission ->> 'tier', described, parent.id, false);
  else
    job := private.insert_job(owner, submission ->> 'tier', described, null, true);
    parent := job;
  end if;
  return jsonb_build_object('outcome', 'created', 'job', to_jsonb(job), 'first', to_jsonb(parent), 'place', private.place_in_queue(parent));
exception when unique_violation then
  return jsonb_build_object('outcome', 'taken');
end $$;

-- Claims jobs that are due for another attempt, at most `most`; of `ids` only, if given.
create function public.claim_due_jobs(most int, ids uuid[] default null) returns setof public.jobs
language sql security definer set search_path = '' as $$
  update public.jobs
  set attempts = attempts + 1, submitted_at = now(), next_attempt_at = now() + private.claim_period()
  where id in (
    select id from public.jobs
    where status = 'queued' and next_attempt_at <= now() and attempts < max_attempts and now() < deadline and (ids is null or id = any (ids))
    order by next_attempt_at limit most
    for update skip locked
  )
  returning *
$$;

-- Records RunPod's id of a submitted job, whatever its status: the callback of a quick job may arrive first. Returns {"status", "superfluous"}:
-- a job that has ended otherwise, or was deleted with its user, does not need the run any more. Then its cancellation is requested.
create function public.record_submission(job_id uuid, endpoint text, new_runpod_id text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  job public.jobs;
  superfluous boolean;
begin
  select * into job from public.jobs where id = job_id for update;
  if job.status in ('queued', 'processing') and new_runpod_id <> all (job.earlier_runpod_ids) then
    update public.jobs
    set earlier_runpod_ids = case when job.runpod_id <> new_runpod_id then earlier_runpod_ids || job.runpod_id else earlier_runpod_ids end,
        runpod_id = new_runpod_id, next_attempt_at = null
    where id = job_id;
  elsif job.runpod_id is null then
    update public.jobs set runpod_id = new_runpod_id where id = job_id and status not in ('queued', 'processing');
  end if;
  superfluous := coalesce(job.status not in ('queued', 'processing') and job.runpod_id is distinct from new_runpod_id, true);
  if superfluous then
    perform private.request_cancellation(endpoint, new_runpod_id);
  end if;
  return jsonb_build_object('status', job.status, 'superfluous', superfluous);
end $$;

-- Records that a submission was refused: before its first attempt reached RunPod a job fails at once, so that its user knows.
create function public.record_refusal(job_id uuid, code text, message text, may_retry boolean, again boolean) returns text
language plpgsql security definer set search_path = '' as $$
declare
  job public.jobs;
begin
  select * into job from public.jobs where id = job_id for update;
  if job.status <> 'queued' or job.runpod_id is not null then return job.status; end if;
  return private.fail_job(job, code, message, may_retry, case when again then private.retry_delay(job.attempts, false) end);
end $$;

revoke execute on all functions in schema private from public;
revoke execute on function public.submit_job, public.claim_due_jobs, public.record_submission, public.record_refusal
from public, anon, authenticated;
grant execute on function public.submit_job, public.claim_due_jobs, public.record_submission, public.record_refusal to service_role;
