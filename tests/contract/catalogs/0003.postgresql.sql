CREATE TABLE public.account_transfers (
    id bigint NOT NULL,
    image_id bigint NOT NULL,
    sender_id bigint NOT NULL,
    recipient_id bigint NOT NULL,
    status character varying(16) NOT NULL,
    created_at bigint NOT NULL
);
CREATE SEQUENCE public.account_transfers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.account_transfers_id_seq OWNED BY public.account_transfers.id;
CREATE TABLE public.accounts (
    id bigint NOT NULL,
    uuid character varying(36) NOT NULL,
    email text NOT NULL,
    name text NOT NULL
);
CREATE SEQUENCE public.accounts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.accounts_id_seq OWNED BY public.accounts.id;
CREATE TABLE public.actions (
    id bigint NOT NULL,
    account_id bigint,
    type character varying(32) NOT NULL,
    status character varying(16) NOT NULL,
    resource_id bigint,
    resource_type character varying(16),
    region character varying(32),
    started_at bigint NOT NULL,
    completed_at bigint,
    error text,
    progress text,
    detail text,
    attempts integer DEFAULT 0 NOT NULL,
    cancel_requested boolean DEFAULT false NOT NULL,
    lane character varying(160) DEFAULT '0///'::character varying NOT NULL,
    process_id bigint,
    fence integer DEFAULT 0 NOT NULL,
    steps_done integer DEFAULT 0 NOT NULL,
    trace character varying(64)
);
CREATE SEQUENCE public.actions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.actions_id_seq OWNED BY public.actions.id;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.damages (
    object_id bigint NOT NULL,
    at bigint NOT NULL,
    digest character varying(64),
    reason text NOT NULL,
    found_at bigint NOT NULL
);
CREATE TABLE public.droplets (
    id bigint NOT NULL,
    account_id bigint NOT NULL,
    name text NOT NULL,
    status character varying(16) NOT NULL,
    region character varying(32) NOT NULL,
    size character varying(64) NOT NULL,
    is_gpu boolean NOT NULL,
    image_id bigint NOT NULL,
    manifest_id bigint,
    virtual_bytes bigint NOT NULL,
    data_bytes bigint NOT NULL,
    fingerprint character varying(64) NOT NULL,
    facts text NOT NULL,
    backup_policy text,
    backup_due_at bigint,
    backup_retry_at bigint,
    created_at bigint NOT NULL,
    deleted_at bigint
);
CREATE SEQUENCE public.droplets_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.droplets_id_seq OWNED BY public.droplets.id;
CREATE TABLE public.facts (
    name character varying(64) NOT NULL,
    value text NOT NULL
);
CREATE TABLE public.holds (
    object_id bigint NOT NULL,
    action_id bigint NOT NULL
);
CREATE TABLE public.images (
    id bigint NOT NULL,
    account_id bigint NOT NULL,
    name text NOT NULL,
    type character varying(16) NOT NULL,
    distribution text NOT NULL,
    slug text,
    public boolean NOT NULL,
    status character varying(16) NOT NULL,
    error_message text NOT NULL,
    description text,
    created_at bigint NOT NULL,
    deleted_at bigint,
    virtual_bytes bigint,
    data_bytes bigint,
    fingerprint character varying(64),
    resource_id bigint,
    expires_at bigint,
    min_disk_gib integer
);
CREATE SEQUENCE public.images_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.images_id_seq OWNED BY public.images.id;
CREATE TABLE public.loose (
    object_id bigint NOT NULL
);
CREATE TABLE public.lost (
    manifest_id bigint NOT NULL,
    number bigint NOT NULL
);
CREATE TABLE public.objects (
    id bigint NOT NULL,
    region character varying(32) NOT NULL,
    kind character varying(8) NOT NULL,
    key character varying(128) NOT NULL,
    bytes bigint NOT NULL,
    state character varying(16) NOT NULL,
    action_id bigint NOT NULL,
    number integer NOT NULL,
    checked_at bigint DEFAULT '0'::bigint NOT NULL,
    key_id character varying(64)
);
CREATE SEQUENCE public.objects_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.objects_id_seq OWNED BY public.objects.id;
CREATE TABLE public.pieces (
    upload_id character varying(36) NOT NULL,
    number integer NOT NULL,
    region character varying(32) NOT NULL,
    key character varying(128) NOT NULL,
    bytes bigint NOT NULL
);
CREATE TABLE public.processes (
    id bigint NOT NULL,
    name text NOT NULL,
    slots integer NOT NULL,
    beats bigint NOT NULL,
    started_at bigint NOT NULL
);
CREATE SEQUENCE public.processes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.processes_id_seq OWNED BY public.processes.id;
CREATE TABLE public.reads (
    id bigint NOT NULL,
    manifest_id bigint NOT NULL,
    process_id bigint
);
CREATE SEQUENCE public.reads_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.reads_id_seq OWNED BY public.reads.id;
CREATE TABLE public.refs (
    object_id bigint NOT NULL,
    manifest_id bigint NOT NULL,
    bytes bigint DEFAULT '0'::bigint NOT NULL
);
CREATE TABLE public.repeats (
    account_id bigint NOT NULL,
    key character varying(255) NOT NULL,
    request character varying(64) NOT NULL,
    outcome text NOT NULL,
    created_at bigint NOT NULL
);
CREATE TABLE public.replicas (
    id bigint NOT NULL,
    image_id bigint NOT NULL,
    region character varying(32) NOT NULL,
    manifest_id bigint NOT NULL
);
CREATE SEQUENCE public.replicas_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.replicas_id_seq OWNED BY public.replicas.id;
CREATE TABLE public.samples (
    region character varying(32) NOT NULL,
    digest bigint NOT NULL,
    manifest_id bigint NOT NULL
);
CREATE TABLE public.ssh_keys (
    id bigint NOT NULL,
    account_id bigint NOT NULL,
    name text NOT NULL,
    public_key text NOT NULL,
    fingerprint character varying(64) NOT NULL
);
CREATE SEQUENCE public.ssh_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.ssh_keys_id_seq OWNED BY public.ssh_keys.id;
CREATE TABLE public.taggings (
    id bigint NOT NULL,
    tag_id bigint NOT NULL,
    resource_type character varying(16) NOT NULL,
    resource_id bigint NOT NULL
);
CREATE SEQUENCE public.taggings_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.taggings_id_seq OWNED BY public.taggings.id;
CREATE TABLE public.tags (
    id bigint NOT NULL,
    account_id bigint NOT NULL,
    name character varying(255) NOT NULL,
    folded character varying(255) NOT NULL
);
CREATE SEQUENCE public.tags_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.tags_id_seq OWNED BY public.tags.id;
CREATE TABLE public.thinned (
    object_id bigint NOT NULL
);
CREATE TABLE public.tokens (
    id bigint NOT NULL,
    account_id bigint NOT NULL,
    name text NOT NULL,
    digest character varying(64) NOT NULL,
    scopes text,
    created_at bigint NOT NULL,
    revoked_at bigint
);
CREATE SEQUENCE public.tokens_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.tokens_id_seq OWNED BY public.tokens.id;
CREATE TABLE public.uploads (
    id character varying(36) NOT NULL,
    account_id bigint NOT NULL,
    request text NOT NULL,
    received_bytes bigint NOT NULL,
    spooled_bytes bigint NOT NULL,
    packed boolean NOT NULL,
    status character varying(16) NOT NULL,
    image_id bigint,
    created_at bigint NOT NULL,
    action_id bigint
);
ALTER TABLE ONLY public.account_transfers ALTER COLUMN id SET DEFAULT nextval('public.account_transfers_id_seq'::regclass);
ALTER TABLE ONLY public.accounts ALTER COLUMN id SET DEFAULT nextval('public.accounts_id_seq'::regclass);
ALTER TABLE ONLY public.actions ALTER COLUMN id SET DEFAULT nextval('public.actions_id_seq'::regclass);
ALTER TABLE ONLY public.droplets ALTER COLUMN id SET DEFAULT nextval('public.droplets_id_seq'::regclass);
ALTER TABLE ONLY public.images ALTER COLUMN id SET DEFAULT nextval('public.images_id_seq'::regclass);
ALTER TABLE ONLY public.objects ALTER COLUMN id SET DEFAULT nextval('public.objects_id_seq'::regclass);
ALTER TABLE ONLY public.processes ALTER COLUMN id SET DEFAULT nextval('public.processes_id_seq'::regclass);
ALTER TABLE ONLY public.reads ALTER COLUMN id SET DEFAULT nextval('public.reads_id_seq'::regclass);
ALTER TABLE ONLY public.replicas ALTER COLUMN id SET DEFAULT nextval('public.replicas_id_seq'::regclass);
ALTER TABLE ONLY public.ssh_keys ALTER COLUMN id SET DEFAULT nextval('public.ssh_keys_id_seq'::regclass);
ALTER TABLE ONLY public.taggings ALTER COLUMN id SET DEFAULT nextval('public.taggings_id_seq'::regclass);
ALTER TABLE ONLY public.tags ALTER COLUMN id SET DEFAULT nextval('public.tags_id_seq'::regclass);
ALTER TABLE ONLY public.tokens ALTER COLUMN id SET DEFAULT nextval('public.tokens_id_seq'::regclass);
INSERT INTO public.account_transfers VALUES (1, 200000001, 1, 2, 'pending', 7);
INSERT INTO public.accounts VALUES (1, 'a', 'a@example.invalid', 'A');
INSERT INTO public.accounts VALUES (2, 'b', 'b@example.invalid', 'B');
INSERT INTO public.actions VALUES (3000000001, 1, 'import', 'completed', 200000001, 'image', 'nyc3', 5, 6, NULL, NULL, NULL, 0, false, '0///', NULL, 0, 0, NULL);
INSERT INTO public.actions VALUES (3000000002, 1, 'transfer', 'in-progress', 200000001, 'image', 'ams3', 7, NULL, NULL, NULL, '{"source": "nyc3", "manifest": "m1", "whole": false}', 1, false, '0/1/nyc3/ams3', 4, 2, 1, NULL);
INSERT INTO public.alembic_version VALUES ('0003');
INSERT INTO public.damages VALUES (2, 5, 'e1', 'BlockCorrupt', 8);
INSERT INTO public.droplets VALUES (500000001, 1, 'web-1', 'active', 'nyc3', 's-1vcpu-1gb', false, 200000001, 3, 30, 21, 'f1', '{}', '{"plan":"daily","hour":0}', 99, NULL, 6, NULL);
INSERT INTO public.facts VALUES ('first_images_published', '1');
INSERT INTO public.holds VALUES (1, 3000000002);
INSERT INTO public.holds VALUES (2, 3000000002);
INSERT INTO public.holds VALUES (3, 3000000002);
INSERT INTO public.holds VALUES (5, 3000000002);
INSERT INTO public.images VALUES (200000001, 1, 'one', 'custom', 'Debian', NULL, false, 'available', '', NULL, 5, NULL, 30, 21, 'f1', NULL, NULL, NULL);
INSERT INTO public.images VALUES (200000002, 1, 'two', 'backup', 'Debian', NULL, false, 'available', '', NULL, 5, NULL, NULL, NULL, 'f2', 500000001, 9000000, 1);
INSERT INTO public.images VALUES (200000003, 2, 'theirs', 'custom', 'Debian', NULL, false, 'available', '', NULL, 5, NULL, NULL, NULL, 'f3', NULL, NULL, NULL);
INSERT INTO public.images VALUES (200000004, 1, 'gone', 'custom', 'Debian', NULL, false, 'deleted', '', NULL, 5, 9, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.loose VALUES (6);
INSERT INTO public.lost VALUES (4, 3);
INSERT INTO public.objects VALUES (1, 'nyc3', 'pack', 'p1', 10, 'live', 3000000001, 0, 0, NULL);
INSERT INTO public.objects VALUES (2, 'nyc3', 'pack', 'p2', 11, 'live', 3000000001, 1, 8, 'k1');
INSERT INTO public.objects VALUES (3, 'nyc3', 'manifest', 'm1', 2, 'live', 3000000001, 2, 0, NULL);
INSERT INTO public.objects VALUES (4, 'nyc3', 'manifest', 'm2', 3, 'live', 3000000001, 3, 0, NULL);
INSERT INTO public.objects VALUES (5, 'ams3', 'pack', 'p5', 12, 'live', 3000000002, 0, 0, NULL);
INSERT INTO public.objects VALUES (6, 'nyc3', 'pack', 'p6', 13, 'live', 3000000001, 4, 0, NULL);
INSERT INTO public.objects VALUES (7, 'nyc3', 'pack', 'p7', 14, 'condemned', 3000000001, 5, 0, NULL);
INSERT INTO public.pieces VALUES ('u', 0, 'nyc3', 'spool/u/0', 2);
INSERT INTO public.processes VALUES (4, 'host:77', 4, 12, 3);
INSERT INTO public.reads VALUES (1, 3, 4);
INSERT INTO public.refs VALUES (1, 3, 10);
INSERT INTO public.refs VALUES (2, 3, 4);
INSERT INTO public.refs VALUES (2, 4, 7);
INSERT INTO public.repeats VALUES (1, 'k', 'r', '{}', 5);
INSERT INTO public.replicas VALUES (1, 200000001, 'nyc3', 3);
INSERT INTO public.replicas VALUES (2, 200000002, 'nyc3', 4);
INSERT INTO public.samples VALUES ('nyc3', 77, 3);
INSERT INTO public.samples VALUES ('nyc3', 78, 3);
INSERT INTO public.samples VALUES ('nyc3', 77, 4);
INSERT INTO public.ssh_keys VALUES (1, 1, 'laptop', 'ssh-ed25519 AAAA', 'aa:bb');
INSERT INTO public.taggings VALUES (1, 1, 'image', 200000001);
INSERT INTO public.taggings VALUES (2, 2, 'image', 200000001);
INSERT INTO public.taggings VALUES (3, 3, 'image', 200000003);
INSERT INTO public.taggings VALUES (4, 1, 'droplet', 500000001);
INSERT INTO public.tags VALUES (1, 1, 'web', 'web');
INSERT INTO public.tags VALUES (2, 1, 'Über', 'über');
INSERT INTO public.tags VALUES (3, 2, 'WEB', 'web');
INSERT INTO public.thinned VALUES (2);
INSERT INTO public.tokens VALUES (1, 1, 'first', 'd', NULL, 5, NULL);
INSERT INTO public.uploads VALUES ('u', 1, '{}', 3, 2, true, 'open', NULL, 5, NULL);
SELECT pg_catalog.setval('public.account_transfers_id_seq', 1, false);
SELECT pg_catalog.setval('public.accounts_id_seq', 1, false);
SELECT pg_catalog.setval('public.actions_id_seq', 3000000002, true);
SELECT pg_catalog.setval('public.droplets_id_seq', 500000001, true);
SELECT pg_catalog.setval('public.images_id_seq', 200000004, true);
SELECT pg_catalog.setval('public.objects_id_seq', 7, true);
SELECT pg_catalog.setval('public.processes_id_seq', 1, false);
SELECT pg_catalog.setval('public.reads_id_seq', 1, false);
SELECT pg_catalog.setval('public.replicas_id_seq', 1, false);
SELECT pg_catalog.setval('public.ssh_keys_id_seq', 1, false);
SELECT pg_catalog.setval('public.taggings_id_seq', 1, false);
SELECT pg_catalog.setval('public.tags_id_seq', 3, true);
SELECT pg_catalog.setval('public.tokens_id_seq', 1, false);
ALTER TABLE ONLY public.account_transfers
    ADD CONSTRAINT account_transfers_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_uuid_key UNIQUE (uuid);
ALTER TABLE ONLY public.actions
    ADD CONSTRAINT actions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.damages
    ADD CONSTRAINT damages_pkey PRIMARY KEY (object_id, at);
ALTER TABLE ONLY public.droplets
    ADD CONSTRAINT droplets_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.facts
    ADD CONSTRAINT facts_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.holds
    ADD CONSTRAINT holds_pkey PRIMARY KEY (object_id, action_id);
ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_slug_key UNIQUE (slug);
ALTER TABLE ONLY public.loose
    ADD CONSTRAINT loose_pkey PRIMARY KEY (object_id);
ALTER TABLE ONLY public.lost
    ADD CONSTRAINT lost_pkey PRIMARY KEY (manifest_id, number);
ALTER TABLE ONLY public.objects
    ADD CONSTRAINT objects_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.objects
    ADD CONSTRAINT objects_region_key_key UNIQUE (region, key);
ALTER TABLE ONLY public.pieces
    ADD CONSTRAINT pieces_pkey PRIMARY KEY (upload_id, number);
ALTER TABLE ONLY public.processes
    ADD CONSTRAINT processes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.reads
    ADD CONSTRAINT reads_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.refs
    ADD CONSTRAINT refs_by_manifest_pkey PRIMARY KEY (object_id, manifest_id);
ALTER TABLE ONLY public.repeats
    ADD CONSTRAINT repeats_pkey PRIMARY KEY (account_id, key);
ALTER TABLE ONLY public.replicas
    ADD CONSTRAINT replicas_image_id_region_key UNIQUE (image_id, region);
ALTER TABLE ONLY public.replicas
    ADD CONSTRAINT replicas_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.samples
    ADD CONSTRAINT samples_by_manifest_pkey PRIMARY KEY (region, digest, manifest_id);
ALTER TABLE ONLY public.ssh_keys
    ADD CONSTRAINT ssh_keys_account_id_fingerprint_key UNIQUE (account_id, fingerprint);
ALTER TABLE ONLY public.ssh_keys
    ADD CONSTRAINT ssh_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.taggings
    ADD CONSTRAINT taggings_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.taggings
    ADD CONSTRAINT taggings_tag_id_resource_type_resource_id_key UNIQUE (tag_id, resource_type, resource_id);
ALTER TABLE ONLY public.tags
    ADD CONSTRAINT tags_account_id_folded_key UNIQUE (account_id, folded);
ALTER TABLE ONLY public.tags
    ADD CONSTRAINT tags_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.thinned
    ADD CONSTRAINT thinned_pkey PRIMARY KEY (object_id);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_digest_key UNIQUE (digest);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uploads_pkey PRIMARY KEY (id);
CREATE INDEX actions_claimed ON public.actions USING btree (process_id) WHERE (process_id IS NOT NULL);
CREATE INDEX actions_in_progress ON public.actions USING btree (status) WHERE ((status)::text = 'in-progress'::text);
CREATE INDEX actions_of_account ON public.actions USING btree (account_id, id);
CREATE INDEX actions_of_resource ON public.actions USING btree (resource_type, resource_id, id);
CREATE INDEX actions_waiting ON public.actions USING btree (lane, id) WHERE (((status)::text = 'in-progress'::text) AND (process_id IS NULL));
CREATE INDEX droplets_of_account ON public.droplets USING btree (account_id, id);
CREATE INDEX droplets_of_manifest ON public.droplets USING btree (manifest_id);
CREATE INDEX droplets_to_retry ON public.droplets USING btree (backup_retry_at) WHERE (backup_retry_at IS NOT NULL);
CREATE INDEX droplets_with_backups ON public.droplets USING btree (backup_due_at) WHERE (backup_due_at IS NOT NULL);
CREATE INDEX holds_of_action ON public.holds USING btree (action_id);
CREATE INDEX images_of_account ON public.images USING btree (account_id, id);
CREATE INDEX images_public ON public.images USING btree (public);
CREATE INDEX images_that_expire ON public.images USING btree (expires_at) WHERE (expires_at IS NOT NULL);
CREATE INDEX objects_condemned ON public.objects USING btree (state) WHERE ((state)::text = 'condemned'::text);
CREATE INDEX objects_of_action ON public.objects USING btree (action_id);
CREATE INDEX objects_to_check ON public.objects USING btree (region, checked_at, id) WHERE ((state)::text = 'live'::text);
CREATE UNIQUE INDEX one_action_a_droplet ON public.actions USING btree (resource_id) WHERE (((status)::text = 'in-progress'::text) AND ((resource_type)::text = 'droplet'::text));
CREATE UNIQUE INDEX one_collect ON public.actions USING btree (type) WHERE (((status)::text = 'in-progress'::text) AND ((type)::text = 'collect'::text));
CREATE UNIQUE INDEX one_compact ON public.actions USING btree (type) WHERE (((status)::text = 'in-progress'::text) AND ((type)::text = 'compact'::text));
CREATE UNIQUE INDEX one_expire ON public.actions USING btree (type) WHERE (((status)::text = 'in-progress'::text) AND ((type)::text = 'expire'::text));
CREATE UNIQUE INDEX one_heal_a_region ON public.actions USING btree (region) WHERE (((status)::text = 'in-progress'::text) AND ((type)::text = 'heal'::text));
CREATE UNIQUE INDEX one_image_a_second ON public.images USING btree (resource_id, created_at) WHERE (resource_id IS NOT NULL);
CREATE UNIQUE INDEX one_import_an_image ON public.actions USING btree (resource_id) WHERE (((status)::text = 'in-progress'::text) AND ((type)::text = 'import'::text));
CREATE UNIQUE INDEX one_offer_an_image ON public.account_transfers USING btree (image_id) WHERE ((status)::text = 'pending'::text);
CREATE UNIQUE INDEX one_scrub_a_region ON public.actions USING btree (region) WHERE (((status)::text = 'in-progress'::text) AND ((type)::text = 'scrub'::text));
CREATE UNIQUE INDEX one_transfer_a_region ON public.actions USING btree (resource_id, region) WHERE (((status)::text = 'in-progress'::text) AND ((type)::text = 'transfer'::text));
CREATE UNIQUE INDEX one_verify_an_image ON public.actions USING btree (resource_id) WHERE (((status)::text = 'in-progress'::text) AND ((type)::text = 'verify'::text));
CREATE INDEX reads_of_manifest ON public.reads USING btree (manifest_id);
CREATE INDEX refs_of_manifest ON public.refs USING btree (manifest_id);
CREATE INDEX repeats_by_age ON public.repeats USING btree (created_at);
CREATE INDEX replicas_of_manifest ON public.replicas USING btree (manifest_id);
CREATE INDEX samples_of_manifest ON public.samples USING btree (manifest_id);
CREATE INDEX taggings_of_resource ON public.taggings USING btree (resource_type, resource_id);
CREATE INDEX uploads_open ON public.uploads USING btree (status) WHERE ((status)::text = 'open'::text);
ALTER TABLE ONLY public.account_transfers
    ADD CONSTRAINT account_transfers_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id);
ALTER TABLE ONLY public.account_transfers
    ADD CONSTRAINT account_transfers_recipient_id_fkey FOREIGN KEY (recipient_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.account_transfers
    ADD CONSTRAINT account_transfers_sender_id_fkey FOREIGN KEY (sender_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.actions
    ADD CONSTRAINT actions_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.actions
    ADD CONSTRAINT actions_process_id_fkey FOREIGN KEY (process_id) REFERENCES public.processes(id);
ALTER TABLE ONLY public.damages
    ADD CONSTRAINT damages_object_id_fkey FOREIGN KEY (object_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.droplets
    ADD CONSTRAINT droplets_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.droplets
    ADD CONSTRAINT droplets_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id);
ALTER TABLE ONLY public.droplets
    ADD CONSTRAINT droplets_manifest_id_fkey FOREIGN KEY (manifest_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.holds
    ADD CONSTRAINT holds_action_id_fkey FOREIGN KEY (action_id) REFERENCES public.actions(id);
ALTER TABLE ONLY public.holds
    ADD CONSTRAINT holds_object_id_fkey FOREIGN KEY (object_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.loose
    ADD CONSTRAINT loose_object_id_fkey FOREIGN KEY (object_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.lost
    ADD CONSTRAINT lost_manifest_id_fkey FOREIGN KEY (manifest_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.pieces
    ADD CONSTRAINT pieces_upload_id_fkey FOREIGN KEY (upload_id) REFERENCES public.uploads(id);
ALTER TABLE ONLY public.reads
    ADD CONSTRAINT reads_manifest_id_fkey FOREIGN KEY (manifest_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.reads
    ADD CONSTRAINT reads_process_id_fkey FOREIGN KEY (process_id) REFERENCES public.processes(id);
ALTER TABLE ONLY public.refs
    ADD CONSTRAINT refs_by_manifest_manifest_id_fkey FOREIGN KEY (manifest_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.refs
    ADD CONSTRAINT refs_by_manifest_object_id_fkey FOREIGN KEY (object_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.repeats
    ADD CONSTRAINT repeats_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.replicas
    ADD CONSTRAINT replicas_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id);
ALTER TABLE ONLY public.replicas
    ADD CONSTRAINT replicas_manifest_id_fkey FOREIGN KEY (manifest_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.samples
    ADD CONSTRAINT samples_by_manifest_manifest_id_fkey FOREIGN KEY (manifest_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.ssh_keys
    ADD CONSTRAINT ssh_keys_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.taggings
    ADD CONSTRAINT taggings_tag_id_fkey FOREIGN KEY (tag_id) REFERENCES public.tags(id);
ALTER TABLE ONLY public.tags
    ADD CONSTRAINT tags_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.thinned
    ADD CONSTRAINT thinned_object_id_fkey FOREIGN KEY (object_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uploads_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uploads_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id);
