-- Jobs that end without a callback: cancelled by their owner, found settled by RunPod, or past their deadline. Their runs are stopped.

-- Cancels an open job of `owner` with what waits for it or it waits for. Returns {"status", "running": [{"endpoint", "runpod_id"}, …]},
-- null if there is no such job.
create function public.cancel_job(owner uuid, job_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  job public.jobs;
  running jsonb;
begin
  -- A parent is locked before its child, as settle_job does: in the other order, both could wait for each other.
  perform from public.jobs where id = (select parent_id from public.jobs where id = job_id and user_id = owner) for update;
  select * into job from public.jobs where id = job_id and user_id = owner for update;
  if not found then return null; end if;
  with cancelled as (
    update public.jobs set status = 'cancelled', completed_at = now(), next_attempt_at = null
    where (id = job.id or id = job.parent_id or parent_id = job.id) and status in ('queued', 'processing')
      and job.status in ('queued', 'processing')
    returning endpoint, runpod_id
  ), requested as (
    insert into private.cancellations (endpoint, runpod_id) select endpoint, runpod_id from cancelled where runpod_id is not null
    on conflict do nothing
  )
  select coalesce(jsonb_agg(jsonb_build_object('endpoint', endpoint, 'runpod_id', runpod_id)) filter (where runpod_id is not null), '[]')
  into running from cancelled;
  select status into job.status from public.jobs where id = job.id;
  return jsonb_build_object('status', job.status, 'running', running);
end $$;

-- Claims open jobs whose callback may be lost: those not looked at for `age`, and all that are past their deadline.
create function public.claim_unsettled_jobs(most int, age interval default '1 minute') returns setof public.jobs
language sql security definer set search_path = '' as $$
  update public.jobs set checked_at = now()
  where id in (
    select id from public.jobs
    where status in ('queued', 'processing')
      and ((runpod_id is not null and coalesce(checked_at, submitted_at) <= now() - age)
        or (deadline <= now() and (checked_at is null or checked_at <= now() - age)))
    order by coalesce(checked_at, submitted_at) nulls first limit most
    for update skip locked
  )
  returning *
$$;

-- Fails an open job that is past its deadline. Returns its status.
create function public.expire_job(job_id uuid) returns text
language plpgsql security definer set search_path = '' as $$
declare
  job public.jobs;
begin
  select * into job from public.jobs where id = job_id for update;
  if job.status not in ('queued', 'processing') or job.deadline > now() then return job.status; end if;
  if job.runpod_id is not null then
    perform private.request_cancellation(job.endpoint, job.runpod_id);
  end if;
  return private.fail_job(job, 'DEADLINE_EXCEEDED', 'The job did not end before its deadline.', true, null);
end $$;

-- Claims cancellations that RunPod has not confirmed, for as long as it may know the run: no run's time to live is longer than two hours.
create function public.claim_cancellations(most int) returns table (endpoint text, runpod_id text)
language sql security definer set search_path = '' as $$
  delete from private.cancellations where requested_at <= now() - interval '2 hours';
  update private.cancellations as cancellation set next_attempt_at = now() + interval '30 seconds'
  where cancellation.runpod_id in (
    select due.runpod_id from private.cancellations as due where next_attempt_at <= now() order by next_attempt_at limit most
    for update skip locked
  )
  returning cancellation.endpoint, cancellation.runpod_id
$$;

-- Records that RunPod has stopped a run, or does not know it.
create function public.confirm_cancellation(run text) returns void
language sql security definer set search_path = '' as $$ delete from private.cancellations where runpod_id = run $$;

revoke execute on all functions in schema private from public;
revoke execute on function public.cancel_job, public.claim_unsettled_jobs, public.expire_job, public.claim_cancellations, public.confirm_cancellation
from public, anon, authenticated;
grant execute on function public.cancel_job, public.claim_unsettled_jobs, public.expire_job, public.claim_cancellations,
public.confirm_cancellation to service_role;
