-- Jobs and the tiers that limit them. Clients only read: every change goes through an edge function, or quotas and statuses could be forged.

-- Helpers that are no part of the API.
create schema private;

create table public.tiers (
  name text primary key,
  max_open_jobs int not null check (max_open_jobs > 0),
  max_jobs_per_day int not null check (max_jobs_per_day > 0),
  allows_adult_content boolean not null default false,
  allows_real_people boolean not null default false
);
comment on table public.tiers is 'Quotas and content permissions by the tier in a user''s app_metadata. A user without one has tier free.';
insert into public.tiers (name, max_open_jobs, max_jobs_per_day) values ('free', 4, 50), ('pro', 20, 1000);

create table public.jobs (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users on delete cascade,
  tier text not null default 'free',
  job_type text not null,
  format text not null check (format in ('image', 'video', 'text')),
  quality text check (quality in ('fast', 'high')),
  model_type text not null check (model_type in ('sdxl', 'wan', 'chat')),
  status text not null default 'queued' check (status in ('queued', 'processing', 'completed', 'failed', 'cancelled')),
  original_prompt text,
  enhanced_prompt text,
  request jsonb not null,
  metadata jsonb not null default '{}',
  result jsonb,
  error_message text,
  error_code text,
  retryable boolean,
  attempts int not null default 0 check (attempts >= 0),
  max_attempts int not null default 3 check (max_attempts > 0),
  parent_id uuid references public.jobs on delete set null,
  runpod_id text,
  earlier_runpod_ids text[] not null default '{}',
  endpoint text not null,
  expected_seconds numeric(10, 1),
  created_at timestamptz not null default now(),
  next_attempt_at timestamptz,
  submitted_at timestamptz,
  checked_at timestamptz,
  started_at timestamptz,
  completed_at timestamptz,
  deadline timestamptz not null,
  constraint an_ended_job_has_a_time check ((status in ('completed', 'failed', 'cancelled')) = (completed_at is not null))
);
comment on column public.jobs.tier is 'The user''s tier at submission. It decides what an enhanced prompt may contain.';
comment on column public.jobs.request is 'The body of the worker''s request, complete: a further attempt sends the same.';
comment on column public.jobs.metadata is 'The caller''s own keys. Workers and functions never write here.';
comment on column public.jobs.result is 'The metadata of the last payload.';
comment on column public.jobs.parent_id is 'The enhancement that this generation waits for.';
comment on column public.jobs.runpod_id is 'RunPod''s id of the current attempt. Null while it is not known.';
comment on column public.jobs.next_attempt_at is 'When the job is due for (another) submission. Null: RunPod has it, or it waits for its parent.';
comment on column public.jobs.deadline is 'When reconcile gives up.';

create index jobs_by_owner on public.jobs (user_id, created_at desc);
create index jobs_open on public.jobs (endpoint, created_at) where status in ('queued', 'processing');
create index jobs_open_by_owner on public.jobs (user_id) where status in ('queued', 'processing');
create index jobs_due on public.jobs (next_attempt_at) where status = 'queued' and next_attempt_at is not null;
create index jobs_ended on public.jobs (job_type, completed_at desc) where status = 'completed';
create index jobs_by_parent on public.jobs (parent_id) where parent_id is not null;

create table public.workspace_assets (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users on delete cascade,
  job_id uuid not null references public.jobs on delete cascade,
  asset_type text not null check (asset_type in ('image', 'video', 'text')),
  temp_storage_path text,
  thumbnail_path text,
  content text,
  file_size_bytes bigint check (file_size_bytes >= 0),
  mime_type text,
  duration_seconds numeric(10, 3),
  asset_index int not null check (asset_index >= 0),
  generation_seed bigint,
  width int,
  height int,
  original_prompt text,
  model_used text,
  generation_settings jsonb not null default '{}',
  created_at timestamptz not null default now(),
  expires_at timestamptz not null default now() + interval '7 days',
  unique (job_id, asset_index),
  constraint a_text_has_content_and_a_file_has_a_path check (
    (asset_type = 'text') = (content is not null) and (asset_type = 'text') = (temp_storage_path is null)
  )
);
create index workspace_assets_by_owner on public.workspace_assets (user_id, created_at desc);
create index workspace_assets_expiry on public.workspace_assets (expires_at);

create table public.user_library (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users on delete cascade,
  job_id uuid references public.jobs on delete set null,
  asset_id uuid not null,
  asset_type text not null check (asset_type in ('image', 'video', 'text')),
  storage_path text,
  thumbnail_path text,
  content text,
  file_size_bytes bigint,
  mime_type text,
  duration_seconds numeric(10, 3),
  generation_seed bigint,
  width int,
  height int,
  original_prompt text,
  model_used text,
  generation_settings jsonb not null default '{}',
  created_at timestamptz not null default now(),
  unique (user_id, asset_id)
);
create index user_library_by_job on public.user_library (job_id);
comment on column public.user_library.asset_id is 'The workspace asset it was copied from, which expires.';

-- Runs at RunPod that are to be stopped and whose cancellation RunPod has not confirmed. Reconcile repeats it.
create table private.cancellations (
  runpod_id text primary key,
  endpoint text not null,
  requested_at timestamptz not null default now(),
  next_attempt_at timestamptz not null default now() + interval '30 seconds'
);
comment on column private.cancellations.next_attempt_at is 'Who requests it also sends it: this is for the case that RunPod does not answer.';

-- A new table is granted to no role of the API, service_role included.
alter table public.tiers enable row level security;
alter table public.jobs enable row level security;
alter table public.workspace_assets enable row level security;
alter table public.user_library enable row level security;
grant select, insert, update, delete on public.tiers, public.jobs, public.workspace_assets, public.user_library to service_role;
grant select on public.jobs, public.workspace_assets, public.user_library to authenticated;
grant delete on public.user_library to authenticated;
create policy "owners read" on public.jobs for select to authenticated using (user_id = (select auth.uid()));
create policy "owners read" on public.workspace_assets for select to authenticated using (user_id = (select auth.uid()));
create policy "owners read" on public.user_library for select to authenticated using (user_id = (select auth.uid()));
create policy "owners delete" on public.user_library for delete to authenticated using (user_id = (select auth.uid()));
