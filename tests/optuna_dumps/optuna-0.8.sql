-- Made by optuna 0.8.0: one study of three trials, the last one failed; then dumped by sqlite3's Connection.iterdump().
BEGIN TRANSACTION;
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	PRIMARY KEY (study_id), 
	CONSTRAINT studydirection CHECK (direction IN ('NOT_SET', 'MINIMIZE', 'MAXIMIZE'))
);
INSERT INTO "studies" VALUES(1,'old','MINIMIZE');
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json VARCHAR(2048), 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json VARCHAR(2048), 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'camera','"A7"');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json VARCHAR(2048), 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'learning_rate',1.14076725730491326631e-03,'{"name": "LogUniformDistribution", "attributes": {"low": 0.001, "high": 1.0}}');
INSERT INTO "trial_params" VALUES(2,1,'conv_layers',1.0,'{"name": "IntUniformDistribution", "attributes": {"low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(3,1,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["sgd", "adam"]}}');
INSERT INTO "trial_params" VALUES(4,2,'learning_rate',8.43454034275655906149e-01,'{"name": "LogUniformDistribution", "attributes": {"low": 0.001, "high": 1.0}}');
INSERT INTO "trial_params" VALUES(5,2,'conv_layers',3.0,'{"name": "IntUniformDistribution", "attributes": {"low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(6,2,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["sgd", "adam"]}}');
INSERT INTO "trial_params" VALUES(7,3,'learning_rate',1.56650532561872085635e-01,'{"name": "LogUniformDistribution", "attributes": {"low": 0.001, "high": 1.0}}');
INSERT INTO "trial_params" VALUES(8,3,'conv_layers',4.0,'{"name": "IntUniformDistribution", "attributes": {"low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(9,3,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["sgd", "adam"]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json VARCHAR(2048), 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,3,'fail_reason','"Setting trial status as TrialState.FAIL because of the following error: ArithmeticError(''diverged'')"');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json VARCHAR(2048), 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'note','"trial 0"');
INSERT INTO "trial_user_attributes" VALUES(2,2,'note','"trial 1"');
INSERT INTO "trial_user_attributes" VALUES(3,3,'note','"trial 2"');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	step INTEGER, 
	value FLOAT, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,1,0.25);
INSERT INTO "trial_values" VALUES(2,1,2,0.5);
INSERT INTO "trial_values" VALUES(3,2,1,0.3125);
INSERT INTO "trial_values" VALUES(4,2,2,0.5625);
INSERT INTO "trial_values" VALUES(5,3,1,0.375);
INSERT INTO "trial_values" VALUES(6,3,2,0.625);
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	value FLOAT, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id), 
	CONSTRAINT trialstate CHECK (state IN ('RUNNING', 'COMPLETE', 'PRUNED', 'FAIL'))
);
INSERT INTO "trials" VALUES(1,1,'COMPLETE',0.5,'2026-11-23 22:46:14.793584','2026-11-23 22:46:15.003180');
INSERT INTO "trials" VALUES(2,1,'COMPLETE',0.5625,'2026-11-23 22:46:15.032484','2026-11-23 22:46:15.236492');
INSERT INTO "trials" VALUES(3,1,'FAIL',0.625,'2026-11-23 22:46:15.281458',NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,11,'0.8.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
COMMIT;
