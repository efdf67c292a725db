-- Made by commit ab7df9f of this project: the studies judged and judged.final, copied by `convsearch copy-study` into an
-- empty database of PostgreSQL 15; then dumped by `pg_dump --inserts --no-owner --no-privileges`, without its comments.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE TYPE public.studydirection AS ENUM (
    'NOT_SET',
    'MINIMIZE',
    'MAXIMIZE'
);
CREATE TYPE public.trialintermediatevaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG',
    'NAN'
);
CREATE TYPE public.trialstate AS ENUM (
    'RUNNING',
    'COMPLETE',
    'PRUNED',
    'FAIL',
    'WAITING'
);
CREATE TYPE public.trialvaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG'
);
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.convsearch_leases (
    trial_id integer NOT NULL,
    study_id integer NOT NULL,
    token character varying(64) NOT NULL,
    host character varying(255) NOT NULL,
    boot character varying(255) NOT NULL,
    pid integer NOT NULL,
    started double precision NOT NULL,
    renewals integer NOT NULL
);
CREATE SEQUENCE public.convsearch_leases_trial_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.convsearch_leases_trial_id_seq OWNED BY public.convsearch_leases.trial_id;
CREATE TABLE public.studies (
    study_id integer NOT NULL,
    study_name character varying(512) NOT NULL
);
CREATE SEQUENCE public.studies_study_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.studies_study_id_seq OWNED BY public.studies.study_id;
CREATE TABLE public.study_directions (
    study_direction_id integer NOT NULL,
    direction public.studydirection NOT NULL,
    study_id integer NOT NULL,
    objective integer NOT NULL
);
CREATE SEQUENCE public.study_directions_study_direction_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_directions_study_direction_id_seq OWNED BY public.study_directions.study_direction_id;
CREATE TABLE public.study_system_attributes (
    study_system_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.study_system_attributes_study_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_system_attributes_study_system_attribute_id_seq OWNED BY public.study_system_attributes.study_system_attribute_id;
CREATE TABLE public.study_user_attributes (
    study_user_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.study_user_attributes_study_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_user_attributes_study_user_attribute_id_seq OWNED BY public.study_user_attributes.study_user_attribute_id;
CREATE TABLE public.trial_heartbeats (
    trial_heartbeat_id integer NOT NULL,
    trial_id integer NOT NULL,
    heartbeat timestamp without time zone NOT NULL
);
CREATE SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq OWNED BY public.trial_heartbeats.trial_heartbeat_id;
CREATE TABLE public.trial_intermediate_values (
    trial_intermediate_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    step integer NOT NULL,
    intermediate_value double precision,
    intermediate_value_type public.trialintermediatevaluetype NOT NULL
);
CREATE SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq OWNED BY public.trial_intermediate_values.trial_intermediate_value_id;
CREATE TABLE public.trial_params (
    param_id integer NOT NULL,
    trial_id integer,
    param_name character varying(512),
    param_value double precision,
    distribution_json text
);
CREATE SEQUENCE public.trial_params_param_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_params_param_id_seq OWNED BY public.trial_params.param_id;
CREATE TABLE public.trial_system_attributes (
    trial_system_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq OWNED BY public.trial_system_attributes.trial_system_attribute_id;
CREATE TABLE public.trial_user_attributes (
    trial_user_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq OWNED BY public.trial_user_attributes.trial_user_attribute_id;
CREATE TABLE public.trial_values (
    trial_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    objective integer NOT NULL,
    value double precision,
    value_type public.trialvaluetype NOT NULL
);
CREATE SEQUENCE public.trial_values_trial_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_values_trial_value_id_seq OWNED BY public.trial_values.trial_value_id;
CREATE TABLE public.trials (
    trial_id integer NOT NULL,
    number integer,
    study_id integer,
    state public.trialstate NOT NULL,
    datetime_start timestamp without time zone,
    datetime_complete timestamp without time zone
);
CREATE SEQUENCE public.trials_trial_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trials_trial_id_seq OWNED BY public.trials.trial_id;
CREATE TABLE public.version_info (
    version_info_id integer NOT NULL,
    schema_version integer,
    library_version character varying(256),
    CONSTRAINT version_info_version_info_id_check CHECK ((version_info_id = 1))
);
ALTER TABLE ONLY public.convsearch_leases ALTER COLUMN trial_id SET DEFAULT nextval('public.convsearch_leases_trial_id_seq'::regclass);
ALTER TABLE ONLY public.studies ALTER COLUMN study_id SET DEFAULT nextval('public.studies_study_id_seq'::regclass);
ALTER TABLE ONLY public.study_directions ALTER COLUMN study_direction_id SET DEFAULT nextval('public.study_directions_study_direction_id_seq'::regclass);
ALTER TABLE ONLY public.study_system_attributes ALTER COLUMN study_system_attribute_id SET DEFAULT nextval('public.study_system_attributes_study_system_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.study_user_attributes ALTER COLUMN study_user_attribute_id SET DEFAULT nextval('public.study_user_attributes_study_user_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_heartbeats ALTER COLUMN trial_heartbeat_id SET DEFAULT nextval('public.trial_heartbeats_trial_heartbeat_id_seq'::regclass);
ALTER TABLE ONLY public.trial_intermediate_values ALTER COLUMN trial_intermediate_value_id SET DEFAULT nextval('public.trial_intermediate_values_trial_intermediate_value_id_seq'::regclass);
ALTER TABLE ONLY public.trial_params ALTER COLUMN param_id SET DEFAULT nextval('public.trial_params_param_id_seq'::regclass);
ALTER TABLE ONLY public.trial_system_attributes ALTER COLUMN trial_system_attribute_id SET DEFAULT nextval('public.trial_system_attributes_trial_system_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_user_attributes ALTER COLUMN trial_user_attribute_id SET DEFAULT nextval('public.trial_user_attributes_trial_user_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_values ALTER COLUMN trial_value_id SET DEFAULT nextval('public.trial_values_trial_value_id_seq'::regclass);
ALTER TABLE ONLY public.trials ALTER COLUMN trial_id SET DEFAULT nextval('public.trials_trial_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('v3.2.0.a');
INSERT INTO public.studies VALUES (1, 'judged');
INSERT INTO public.studies VALUES (2, 'judged.final');
INSERT INTO public.study_directions VALUES (1, 'MAXIMIZE', 1, 0);
INSERT INTO public.study_directions VALUES (2, 'MAXIMIZE', 2, 0);
INSERT INTO public.study_system_attributes VALUES (1, 1, 'study:metric_names', '["accuracy"]');
INSERT INTO public.study_system_attributes VALUES (2, 2, 'study:metric_names', '["accuracy"]');
INSERT INTO public.study_user_attributes VALUES (1, 1, 'question', '""');
INSERT INTO public.study_user_attributes VALUES (2, 1, 'uid', '"00673943c2a147ec862210ae9ec8e215"');
INSERT INTO public.study_user_attributes VALUES (3, 1, 'spec', '{"schema": 1, "question": "", "checkpoints": null, "data": {"source": "shapes", "path": null, "image_size": 8, "validation": 80, "seed": 0, "train_images": 400, "search_images": null, "search_size": null, "test_share": 0.1}, "budget": {"trials": 6, "epochs": 3.0, "steps_per_epoch": 1, "evaluations": null, "hours": null, "trial_macs": null, "max_parameters": null, "max_macs": null, "max_latency_ms": null}, "search": {"objective": "accuracy", "sampler": "tpe", "pruner": "asha", "first_rung": 1, "rung_updates": 1, "reduction": 3, "anneal": false, "audit": 0.5, "baseline": true, "patience": 48, "startup_trials": 10, "repeats": 1, "seed": 0, "trial_seed": null}, "space": {"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": {"low": 0.001, "high": 0.1, "log": true}, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0}, "try": [], "compare": [], "final": {"epochs": 2.0, "share": 0.5, "top": 2, "seeds": 2, "baseline": false}, "verdict_on": null}');
INSERT INTO public.study_user_attributes VALUES (4, 1, 'data', '{"fingerprint": "7c5baf31134b50894a66011b906cd9be1d72a3666469168e691239ca7921766d", "classes": ["bar", "circle", "crescent", "cross", "half", "pentagon", "ring", "square", "star", "triangle"], "train_counts": [40, 40, 40, 40, 40, 40, 40, 40, 40, 40], "test_counts": [10, 10, 10, 10, 10, 10, 10, 10, 10, 10], "image_size": 8, "notes": []}');
INSERT INTO public.study_user_attributes VALUES (5, 1, 'versions', '{"convsearch": "0.1.0", "torch": "2.15.0", "optuna": "5.0.0", "numpy": "2.4.6", "python": "3.11.7", "machine": "2 cores, AMD EPYC; Linux 6.18.44-fc-v669", "commit": "ab7df9f"}');
INSERT INTO public.study_user_attributes VALUES (6, 1, 'versions_now', '{"convsearch": "0.1.0", "torch": "2.15.0", "optuna": "5.0.0", "numpy": "2.4.6", "code": "72f79d22e22f"}');
INSERT INTO public.study_user_attributes VALUES (7, 1, 'trials', '6');
INSERT INTO public.study_user_attributes VALUES (8, 1, 'hours', 'null');
INSERT INTO public.study_user_attributes VALUES (9, 1, 'seconds_run', '6.7');
INSERT INTO public.study_user_attributes VALUES (10, 1, 'stop', 'false');
INSERT INTO public.study_user_attributes VALUES (11, 1, 'clock', '"ada81f36a73c4433bb4b5736030801c1"');
INSERT INTO public.study_user_attributes VALUES (12, 1, 'selection', '{"trial": 0, "reason": "trial 0, the baseline, is delivered: of 5 other trials none beats it by more than chance; the best one, trial 5, is 0.0625 behind on 80 validation images, where chance explains 0.1343"}');
INSERT INTO public.study_user_attributes VALUES (13, 2, 'question', '"Which of trial 0 and trial 2 is best on images that none was chosen by?"');
INSERT INTO public.study_user_attributes VALUES (14, 2, 'uid', '"c0abd9d1f1b344a28a7913068010677b"');
INSERT INTO public.study_user_attributes VALUES (15, 2, 'spec', '{"schema": 1, "question": "Which of trial 0 and trial 2 is best on images that none was chosen by?", "checkpoints": null, "data": {"source": "shapes", "path": null, "image_size": 8, "validation": 80, "seed": 0, "train_images": 400, "search_images": null, "search_size": null, "test_share": 0.1}, "budget": {"trials": 4, "epochs": 2.0, "steps_per_epoch": 4, "evaluations": null, "hours": null, "trial_macs": null, "max_parameters": null, "max_macs": null, "max_latency_ms": null}, "search": {"objective": "accuracy", "sampler": "grid", "pruner": "none", "first_rung": 1, "rung_updates": 1, "reduction": 3, "anneal": false, "audit": 0.5, "baseline": true, "patience": 48, "startup_trials": 10, "repeats": 2, "seed": 1370575325, "trial_seed": null}, "space": {"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.1, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0}, "try": [], "compare": [{"name": "trial 0"}, {"name": "trial 2", "learning_rate": 0.0013366229267488983}], "final": null, "verdict_on": "00673943c2a147ec862210ae9ec8e215"}');
INSERT INTO public.study_user_attributes VALUES (16, 2, 'data', '{"fingerprint": "7c5baf31134b50894a66011b906cd9be1d72a3666469168e691239ca7921766d", "classes": ["bar", "circle", "crescent", "cross", "half", "pentagon", "ring", "square", "star", "triangle"], "train_counts": [40, 40, 40, 40, 40, 40, 40, 40, 40, 40], "test_counts": [10, 10, 10, 10, 10, 10, 10, 10, 10, 10], "image_size": 8, "notes": []}');
INSERT INTO public.study_user_attributes VALUES (17, 2, 'versions', '{"convsearch": "0.1.0", "torch": "2.15.0", "optuna": "5.0.0", "numpy": "2.4.6", "python": "3.11.7", "machine": "2 cores, AMD EPYC; Linux 6.18.44-fc-v669", "commit": "ab7df9f"}');
INSERT INTO public.study_user_attributes VALUES (18, 2, 'versions_now', '{"convsearch": "0.1.0", "torch": "2.15.0", "optuna": "5.0.0", "numpy": "2.4.6", "code": "72f79d22e22f"}');
INSERT INTO public.study_user_attributes VALUES (19, 2, 'trials', '4');
INSERT INTO public.study_user_attributes VALUES (20, 2, 'hours', 'null');
INSERT INTO public.study_user_attributes VALUES (21, 2, 'seconds_run', '1.5');
INSERT INTO public.study_user_attributes VALUES (22, 2, 'stop', 'false');
INSERT INTO public.study_user_attributes VALUES (23, 2, 'selection', '{"trial": 0, "reason": "trial 0, the baseline, is delivered: of 5 other trials none beats it by more than chance; the best one, trial 5, is 0.0625 behind on 80 validation images, where chance explains 0.1343"}');
INSERT INTO public.study_user_attributes VALUES (24, 2, 'clock', '"bba7e6b37101444caa0e2c77364a3c0a"');
INSERT INTO public.trial_intermediate_values VALUES (1, 1, 1, 0.1625, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (2, 1, 2, 0.1125, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (3, 1, 3, 0.1625, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (4, 2, 1, 0.0375, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (5, 3, 1, 0.15, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (6, 4, 1, 0.075, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (7, 5, 1, 0.075, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (8, 6, 1, 0.0875, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (9, 6, 2, 0.1, 'FINITE');
INSERT INTO public.trial_intermediate_values VALUES (10, 6, 3, 0.1, 'FINITE');
INSERT INTO public.trial_params VALUES (1, 1, 'learning_rate', 0.1, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.1, "log": true}}');
INSERT INTO public.trial_params VALUES (2, 2, 'learning_rate', 0.017963068522284985, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.1, "log": true}}');
INSERT INTO public.trial_params VALUES (3, 3, 'learning_rate', 0.0013366229267488983, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.1, "log": true}}');
INSERT INTO public.trial_params VALUES (4, 4, 'learning_rate', 0.02346695667368024, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.1, "log": true}}');
INSERT INTO public.trial_params VALUES (5, 5, 'learning_rate', 0.04466941095512407, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.1, "log": true}}');
INSERT INTO public.trial_params VALUES (6, 6, 'learning_rate', 0.001742574952972475, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.1, "log": true}}');
INSERT INTO public.trial_params VALUES (7, 7, 'repeat', 0, '{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 0, "high": 1}}');
INSERT INTO public.trial_params VALUES (8, 7, 'row', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["trial 0", "trial 2"]}}');
INSERT INTO public.trial_params VALUES (9, 8, 'repeat', 0, '{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 0, "high": 1}}');
INSERT INTO public.trial_params VALUES (10, 8, 'row', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["trial 0", "trial 2"]}}');
INSERT INTO public.trial_params VALUES (11, 9, 'repeat', 1, '{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 0, "high": 1}}');
INSERT INTO public.trial_params VALUES (12, 9, 'row', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["trial 0", "trial 2"]}}');
INSERT INTO public.trial_params VALUES (13, 10, 'repeat', 1, '{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 0, "high": 1}}');
INSERT INTO public.trial_params VALUES (14, 10, 'row', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["trial 0", "trial 2"]}}');
INSERT INTO public.trial_system_attributes VALUES (1, 1, 'fixed_params', '{"learning_rate": 0.1}');
INSERT INTO public.trial_system_attributes VALUES (2, 1, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.1, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0}');
INSERT INTO public.trial_system_attributes VALUES (3, 1, 'convsearch:teller', '"672942e2c5c24bcfb1f9b3cdfd8d1792"');
INSERT INTO public.trial_system_attributes VALUES (4, 2, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.017963068522284985, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0}');
INSERT INTO public.trial_system_attributes VALUES (5, 2, 'convsearch:teller', '"672942e2c5c24bcfb1f9b3cdfd8d1792"');
INSERT INTO public.trial_system_attributes VALUES (6, 3, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.0013366229267488983, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0}');
INSERT INTO public.trial_system_attributes VALUES (7, 3, 'convsearch:teller', '"672942e2c5c24bcfb1f9b3cdfd8d1792"');
INSERT INTO public.trial_system_attributes VALUES (8, 4, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.02346695667368024, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0}');
INSERT INTO public.trial_system_attributes VALUES (9, 4, 'convsearch:teller', '"672942e2c5c24bcfb1f9b3cdfd8d1792"');
INSERT INTO public.trial_system_attributes VALUES (10, 5, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.04466941095512407, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0}');
INSERT INTO public.trial_system_attributes VALUES (11, 5, 'convsearch:teller', '"672942e2c5c24bcfb1f9b3cdfd8d1792"');
INSERT INTO public.trial_system_attributes VALUES (12, 6, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.001742574952972475, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0}');
INSERT INTO public.trial_system_attributes VALUES (13, 6, 'convsearch:teller', '"672942e2c5c24bcfb1f9b3cdfd8d1792"');
INSERT INTO public.trial_system_attributes VALUES (14, 7, 'fixed_params', '{"repeat": 0, "row": "trial 0"}');
INSERT INTO public.trial_system_attributes VALUES (15, 7, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.1, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0, "repeat": 0, "row": "trial 0"}');
INSERT INTO public.trial_system_attributes VALUES (16, 8, 'fixed_params', '{"repeat": 0, "row": "trial 2"}');
INSERT INTO public.trial_system_attributes VALUES (17, 8, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.0013366229267488983, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0, "repeat": 0, "row": "trial 2"}');
INSERT INTO public.trial_system_attributes VALUES (18, 9, 'fixed_params', '{"repeat": 1, "row": "trial 0"}');
INSERT INTO public.trial_system_attributes VALUES (19, 9, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.1, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0, "repeat": 1, "row": "trial 0"}');
INSERT INTO public.trial_system_attributes VALUES (20, 10, 'fixed_params', '{"repeat": 1, "row": "trial 2"}');
INSERT INTO public.trial_system_attributes VALUES (21, 10, 'config', '{"stem": "none", "conv_layers": 1, "width": 8, "growth": 2.0, "kernel_size": 3, "pool": "max", "pool_every": 1, "pool_first": false, "norm": "batch", "activation": "relu", "residual": false, "dropout_conv": 0.0, "dense_layers": 0, "dense_units": 128, "dropout_dense": 0.0, "head": "gap", "logit_scale": 1.0, "init": "kaiming", "backbone": "none", "backbone_side": 0, "tuned_stages": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.0013366229267488983, "bias_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0005, "decay_norms": false, "scheduler": "one_cycle", "warmup": 0.0, "label_smoothing": 0.0, "ema": 0.0, "clip": 0.0, "precision": "float32", "backbone_rate": 0.1, "flip": false, "crop": 0, "cutout": 0, "repeat": 1, "row": "trial 2"}');
INSERT INTO public.trial_system_attributes VALUES (22, 7, 'convsearch:teller', '"559dec9a5d49458381fb50203ee98c39"');
INSERT INTO public.trial_system_attributes VALUES (23, 8, 'convsearch:teller', '"559dec9a5d49458381fb50203ee98c39"');
INSERT INTO public.trial_system_attributes VALUES (24, 9, 'convsearch:teller', '"559dec9a5d49458381fb50203ee98c39"');
INSERT INTO public.trial_system_attributes VALUES (25, 10, 'convsearch:teller', '"559dec9a5d49458381fb50203ee98c39"');
INSERT INTO public.trial_user_attributes VALUES (1, 1, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (2, 1, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (3, 1, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (4, 1, 'seed', '3325690193');
INSERT INTO public.trial_user_attributes VALUES (5, 1, 'seconds', '0.233');
INSERT INTO public.trial_user_attributes VALUES (6, 1, 'epochs', '3.0');
INSERT INTO public.trial_user_attributes VALUES (7, 1, 'images_per_second', '26007.7');
INSERT INTO public.trial_user_attributes VALUES (8, 1, 'correct', '{"counts": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8], "1": "AAAAAOTgAEQCYQ==", "3": "ABQAAISxA0QAAQ=="}');
INSERT INTO public.trial_user_attributes VALUES (9, 2, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (10, 2, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (11, 2, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (12, 2, 'seed', '895681486');
INSERT INTO public.trial_user_attributes VALUES (13, 2, 'seconds', '0.024');
INSERT INTO public.trial_user_attributes VALUES (14, 2, 'epochs', '1.0');
INSERT INTO public.trial_user_attributes VALUES (15, 2, 'images_per_second', '24636.3');
INSERT INTO public.trial_user_attributes VALUES (16, 2, 'correct', '{"counts": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8], "1": "AAAAAAAAAIAIQA=="}');
INSERT INTO public.trial_user_attributes VALUES (17, 2, 'decision', '{"step": 1, "value": 0.0375, "reason": "0.1250 behind the baseline at step 1, where 0.0468 is one standard error"}');
INSERT INTO public.trial_user_attributes VALUES (18, 2, 'reason', '"0.1250 behind the baseline at step 1, where 0.0468 is one standard error"');
INSERT INTO public.trial_user_attributes VALUES (19, 3, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (20, 3, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (21, 3, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (22, 3, 'seed', '2048267703');
INSERT INTO public.trial_user_attributes VALUES (23, 3, 'seconds', '0.018');
INSERT INTO public.trial_user_attributes VALUES (24, 3, 'epochs', '1.0');
INSERT INTO public.trial_user_attributes VALUES (25, 3, 'images_per_second', '32687.5');
INSERT INTO public.trial_user_attributes VALUES (26, 3, 'correct', '{"counts": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8], "1": "ACsAJMYAAAkAAA=="}');
INSERT INTO public.trial_user_attributes VALUES (27, 3, 'decision', '{"step": 1, "value": 0.15, "reason": "rank 2 of 3 at step 1; the best 1 went on"}');
INSERT INTO public.trial_user_attributes VALUES (28, 3, 'reason', '"rank 2 of 3 at step 1; the best 1 went on"');
INSERT INTO public.trial_user_attributes VALUES (29, 4, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (30, 4, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (31, 4, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (32, 4, 'seed', '4028405120');
INSERT INTO public.trial_user_attributes VALUES (33, 4, 'seconds', '0.021');
INSERT INTO public.trial_user_attributes VALUES (34, 4, 'epochs', '1.0');
INSERT INTO public.trial_user_attributes VALUES (35, 4, 'images_per_second', '28652.3');
INSERT INTO public.trial_user_attributes VALUES (36, 4, 'correct', '{"counts": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8], "1": "AAAMAIsAAAAAAA=="}');
INSERT INTO public.trial_user_attributes VALUES (37, 4, 'decision', '{"step": 1, "value": 0.075, "reason": "0.0875 behind the baseline at step 1, where 0.0515 is one standard error"}');
INSERT INTO public.trial_user_attributes VALUES (38, 4, 'reason', '"0.0875 behind the baseline at step 1, where 0.0515 is one standard error"');
INSERT INTO public.trial_user_attributes VALUES (39, 5, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (40, 5, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (41, 5, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (42, 5, 'seed', '2571008431');
INSERT INTO public.trial_user_attributes VALUES (43, 5, 'seconds', '0.022');
INSERT INTO public.trial_user_attributes VALUES (44, 5, 'epochs', '1.0');
INSERT INTO public.trial_user_attributes VALUES (45, 5, 'images_per_second', '26685.1');
INSERT INTO public.trial_user_attributes VALUES (46, 5, 'correct', '{"counts": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8], "1": "AAAQKAAAAABRAA=="}');
INSERT INTO public.trial_user_attributes VALUES (47, 5, 'decision', '{"step": 1, "value": 0.075, "reason": "0.0875 behind the baseline at step 1, where 0.0545 is one standard error"}');
INSERT INTO public.trial_user_attributes VALUES (48, 5, 'reason', '"0.0875 behind the baseline at step 1, where 0.0545 is one standard error"');
INSERT INTO public.trial_user_attributes VALUES (49, 6, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (50, 6, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (51, 6, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (52, 6, 'seed', '2382096022');
INSERT INTO public.trial_user_attributes VALUES (53, 6, 'seconds', '0.07');
INSERT INTO public.trial_user_attributes VALUES (54, 6, 'epochs', '3.0');
INSERT INTO public.trial_user_attributes VALUES (55, 6, 'images_per_second', '29077.4');
INSERT INTO public.trial_user_attributes VALUES (56, 6, 'correct', '{"counts": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8], "1": "AABAAOcAAAAAAA==", "3": "AABAAOcCAAAAAA=="}');
INSERT INTO public.trial_user_attributes VALUES (57, 6, 'spared', '{"step": 1, "value": 0.0875, "reason": "0.0750 behind the baseline at step 1, where 0.0433 is one standard error"}');
INSERT INTO public.trial_user_attributes VALUES (58, 7, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (59, 7, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (60, 7, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (61, 7, 'seed', '1189012106');
INSERT INTO public.trial_user_attributes VALUES (62, 7, 'seconds', '0.148');
INSERT INTO public.trial_user_attributes VALUES (63, 7, 'epochs', '2.0');
INSERT INTO public.trial_user_attributes VALUES (64, 7, 'images_per_second', '25966.7');
INSERT INTO public.trial_user_attributes VALUES (65, 7, 'paused', 'null');
INSERT INTO public.trial_user_attributes VALUES (66, 8, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (67, 8, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (68, 8, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (69, 8, 'seed', '1189012106');
INSERT INTO public.trial_user_attributes VALUES (70, 8, 'seconds', '0.118');
INSERT INTO public.trial_user_attributes VALUES (71, 8, 'epochs', '2.0');
INSERT INTO public.trial_user_attributes VALUES (72, 8, 'images_per_second', '22258.7');
INSERT INTO public.trial_user_attributes VALUES (73, 8, 'paused', 'null');
INSERT INTO public.trial_user_attributes VALUES (74, 9, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (75, 9, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (76, 9, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (77, 9, 'seed', '1058522772');
INSERT INTO public.trial_user_attributes VALUES (78, 9, 'seconds', '0.126');
INSERT INTO public.trial_user_attributes VALUES (79, 9, 'epochs', '2.0');
INSERT INTO public.trial_user_attributes VALUES (80, 9, 'images_per_second', '16100.6');
INSERT INTO public.trial_user_attributes VALUES (81, 9, 'paused', 'null');
INSERT INTO public.trial_user_attributes VALUES (82, 10, 'attempts', '1');
INSERT INTO public.trial_user_attributes VALUES (83, 10, 'parameters', '322');
INSERT INTO public.trial_user_attributes VALUES (84, 10, 'macs', '13904');
INSERT INTO public.trial_user_attributes VALUES (85, 10, 'seed', '1058522772');
INSERT INTO public.trial_user_attributes VALUES (86, 10, 'seconds', '0.124');
INSERT INTO public.trial_user_attributes VALUES (87, 10, 'epochs', '2.0');
INSERT INTO public.trial_user_attributes VALUES (88, 10, 'images_per_second', '24677.3');
INSERT INTO public.trial_user_attributes VALUES (89, 10, 'paused', 'null');
INSERT INTO public.trial_user_attributes VALUES (90, 7, 'test', '{"value": 0.08, "images": 100, "right": 8, "interval": [0.04109, 0.14998], "confusion": [[2, 0, 2, 0, 2, 1, 2, 1, 0, 0], [4, 0, 2, 0, 1, 1, 2, 0, 0, 0], [0, 0, 1, 1, 2, 1, 2, 3, 0, 0], [3, 1, 0, 0, 1, 0, 2, 3, 0, 0], [1, 0, 4, 0, 1, 2, 2, 0, 0, 0], [1, 0, 0, 1, 1, 1, 4, 2, 0, 0], [2, 3, 1, 0, 1, 1, 1, 1, 0, 0], [3, 0, 1, 0, 2, 2, 0, 2, 0, 0], [3, 1, 0, 1, 1, 0, 2, 2, 0, 0], [3, 0, 1, 0, 3, 0, 1, 2, 0, 0]], "bits": "BQAAIAAAiAQAQQAAAA==", "time": "2026-11-30 07:16:06"}');
INSERT INTO public.trial_user_attributes VALUES (91, 7, 'latency_ms', '0.098');
INSERT INTO public.trial_user_attributes VALUES (92, 8, 'test', '{"value": 0.07, "images": 100, "right": 7, "interval": [0.03432, 0.1375], "confusion": [[0, 0, 0, 0, 0, 0, 0, 0, 10, 0], [0, 0, 0, 0, 0, 0, 1, 0, 9, 0], [0, 0, 0, 0, 0, 0, 1, 0, 9, 0], [0, 0, 0, 0, 0, 0, 2, 0, 8, 0], [0, 0, 0, 0, 0, 0, 0, 0, 10, 0], [0, 0, 0, 0, 0, 0, 2, 0, 8, 0], [0, 0, 0, 0, 0, 0, 0, 0, 10, 0], [0, 0, 0, 0, 0, 0, 1, 0, 9, 0], [0, 0, 0, 0, 0, 0, 2, 0, 7, 1], [0, 0, 0, 0, 0, 0, 1, 0, 9, 0]], "bits": "AAAAAAAAAAAAAMfAAA==", "time": "2026-11-30 07:16:06"}');
INSERT INTO public.trial_user_attributes VALUES (93, 8, 'latency_ms', '0.097');
INSERT INTO public.trial_user_attributes VALUES (94, 9, 'test', '{"value": 0.15, "images": 100, "right": 15, "interval": [0.09306, 0.23284], "confusion": [[0, 2, 1, 1, 0, 2, 3, 0, 1, 0], [0, 2, 0, 2, 0, 2, 1, 0, 3, 0], [0, 3, 3, 0, 0, 1, 0, 0, 3, 0], [0, 1, 1, 2, 0, 1, 1, 0, 3, 1], [0, 3, 1, 2, 0, 4, 0, 0, 0, 0], [1, 1, 1, 2, 0, 3, 0, 0, 2, 0], [0, 1, 1, 1, 0, 1, 3, 0, 3, 0], [0, 3, 2, 2, 0, 0, 0, 0, 3, 0], [0, 2, 1, 3, 0, 1, 1, 0, 2, 0], [1, 6, 1, 2, 0, 0, 0, 0, 0, 0]], "bits": "ACQAZQEAGIlAAJAAAA==", "time": "2026-11-30 07:16:06"}');
INSERT INTO public.trial_user_attributes VALUES (95, 9, 'latency_ms', '0.097');
INSERT INTO public.trial_user_attributes VALUES (96, 10, 'test', '{"value": 0.14, "images": 100, "right": 14, "interval": [0.08526, 0.22137], "confusion": [[0, 0, 0, 0, 0, 5, 2, 3, 0, 0], [0, 0, 0, 0, 0, 3, 1, 5, 0, 1], [0, 0, 0, 0, 0, 4, 2, 4, 0, 0], [0, 0, 0, 0, 0, 2, 1, 5, 0, 2], [0, 0, 0, 0, 0, 5, 2, 2, 0, 1], [0, 0, 0, 0, 0, 3, 3, 2, 0, 2], [0, 0, 0, 0, 0, 2, 2, 4, 0, 2], [0, 0, 0, 0, 0, 1, 1, 7, 0, 1], [0, 0, 0, 0, 1, 1, 1, 7, 0, 0], [0, 0, 0, 0, 0, 1, 2, 5, 0, 2]], "bits": "AAAAAAAADIBKrwADAA==", "time": "2026-11-30 07:16:06"}');
INSERT INTO public.trial_user_attributes VALUES (97, 10, 'latency_ms', '0.097');
INSERT INTO public.trial_values VALUES (1, 1, 0, 0.1625, 'FINITE');
INSERT INTO public.trial_values VALUES (2, 2, 0, 0.0375, 'FINITE');
INSERT INTO public.trial_values VALUES (3, 3, 0, 0.15, 'FINITE');
INSERT INTO public.trial_values VALUES (4, 4, 0, 0.075, 'FINITE');
INSERT INTO public.trial_values VALUES (5, 5, 0, 0.075, 'FINITE');
INSERT INTO public.trial_values VALUES (6, 6, 0, 0.1, 'FINITE');
INSERT INTO public.trial_values VALUES (7, 7, 0, 0.08, 'FINITE');
INSERT INTO public.trial_values VALUES (8, 8, 0, 0.07, 'FINITE');
INSERT INTO public.trial_values VALUES (9, 9, 0, 0.15, 'FINITE');
INSERT INTO public.trial_values VALUES (10, 10, 0, 0.14, 'FINITE');
INSERT INTO public.trials VALUES (1, 0, 1, 'COMPLETE', '2026-11-30 07:16:03.710214', '2026-11-30 07:16:03.980658');
INSERT INTO public.trials VALUES (2, 1, 1, 'PRUNED', '2026-11-30 07:16:03.992197', '2026-11-30 07:16:04.04118');
INSERT INTO public.trials VALUES (3, 2, 1, 'PRUNED', '2026-11-30 07:16:04.047434', '2026-11-30 07:16:04.087707');
INSERT INTO public.trials VALUES (4, 3, 1, 'PRUNED', '2026-11-30 07:16:04.092524', '2026-11-30 07:16:04.132784');
INSERT INTO public.trials VALUES (5, 4, 1, 'PRUNED', '2026-11-30 07:16:04.138703', '2026-11-30 07:16:04.17978');
INSERT INTO public.trials VALUES (6, 5, 1, 'COMPLETE', '2026-11-30 07:16:04.185323', '2026-11-30 07:16:04.270494');
INSERT INTO public.trials VALUES (7, 0, 2, 'COMPLETE', '2026-11-30 07:16:06.034528', '2026-11-30 07:16:06.086005');
INSERT INTO public.trials VALUES (8, 1, 2, 'COMPLETE', '2026-11-30 07:16:06.092673', '2026-11-30 07:16:06.140216');
INSERT INTO public.trials VALUES (9, 2, 2, 'COMPLETE', '2026-11-30 07:16:06.14499', '2026-11-30 07:16:06.192746');
INSERT INTO public.trials VALUES (10, 3, 2, 'COMPLETE', '2026-11-30 07:16:06.200438', '2026-11-30 07:16:06.256338');
INSERT INTO public.version_info VALUES (1, 12, '5.0.0');
SELECT pg_catalog.setval('public.convsearch_leases_trial_id_seq', 1, false);
SELECT pg_catalog.setval('public.studies_study_id_seq', 2, true);
SELECT pg_catalog.setval('public.study_directions_study_direction_id_seq', 2, true);
SELECT pg_catalog.setval('public.study_system_attributes_study_system_attribute_id_seq', 2, true);
SELECT pg_catalog.setval('public.study_user_attributes_study_user_attribute_id_seq', 24, true);
SELECT pg_catalog.setval('public.trial_heartbeats_trial_heartbeat_id_seq', 1, false);
SELECT pg_catalog.setval('public.trial_intermediate_values_trial_intermediate_value_id_seq', 10, true);
SELECT pg_catalog.setval('public.trial_params_param_id_seq', 14, true);
SELECT pg_catalog.setval('public.trial_system_attributes_trial_system_attribute_id_seq', 25, true);
SELECT pg_catalog.setval('public.trial_user_attributes_trial_user_attribute_id_seq', 97, true);
SELECT pg_catalog.setval('public.trial_values_trial_value_id_seq', 10, true);
SELECT pg_catalog.setval('public.trials_trial_id_seq', 10, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.convsearch_leases
    ADD CONSTRAINT convsearch_leases_pkey PRIMARY KEY (trial_id);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT studies_pkey PRIMARY KEY (study_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_pkey PRIMARY KEY (study_direction_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_objective_key UNIQUE (study_id, objective);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_pkey PRIMARY KEY (study_system_attribute_id);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_key_key UNIQUE (study_id, key);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_pkey PRIMARY KEY (study_user_attribute_id);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_key_key UNIQUE (study_id, key);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_pkey PRIMARY KEY (trial_heartbeat_id);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_key UNIQUE (trial_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_pkey PRIMARY KEY (trial_intermediate_value_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_step_key UNIQUE (trial_id, step);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_pkey PRIMARY KEY (param_id);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_param_name_key UNIQUE (trial_id, param_name);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_pkey PRIMARY KEY (trial_system_attribute_id);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_key_key UNIQUE (trial_id, key);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_pkey PRIMARY KEY (trial_user_attribute_id);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_key_key UNIQUE (trial_id, key);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_pkey PRIMARY KEY (trial_value_id);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_objective_key UNIQUE (trial_id, objective);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (trial_id);
ALTER TABLE ONLY public.version_info
    ADD CONSTRAINT version_info_pkey PRIMARY KEY (version_info_id);
CREATE INDEX convsearch_standing ON public.trial_intermediate_values USING btree (step, trial_id, intermediate_value);
CREATE INDEX ix_convsearch_leases_study_id ON public.convsearch_leases USING btree (study_id);
CREATE INDEX ix_convsearch_leases_token ON public.convsearch_leases USING btree (token);
CREATE UNIQUE INDEX ix_studies_study_name ON public.studies USING btree (study_name);
CREATE INDEX ix_trials_study_id ON public.trials USING btree (study_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
