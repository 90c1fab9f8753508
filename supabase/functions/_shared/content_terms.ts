/** The words that the default content policy compares, in lower case without accents. The plural is implied. */

/** Sexual content. */
export const SEXUAL_TERMS = [
  ..."sex,sexual,sexually,sexy,sexualized,sexualised,porn,porno,pornographic,pornography,nsfw,xxx,hentai,erotic,erotica,nude,nudity,naked"
    .split(","),
  ..."topless,bottomless,undressed,genital,genitalia,penis,vagina,vulva,breast,nipple,areola,buttock,orgasm,masturbate".split(","),
  ..."masturbating,masturbation,intercourse,fellatio,cunnilingus,blowjob,handjob,cumshot,creampie,gangbang,orgy,bdsm,fetish,lingerie".split(
    ",",
  ),
  ..."fuck,fucking,pussy,boob,tits,horny,seductive,seduced,aroused,stripping,striptease,upskirt,ahegao,rape".split(","),
  ..."sexo,desnudo,desnuda,nue,nackt,nudo,nuda,sexe,erotisch,erotique,erotico,erotica,porno".split(","),
  ..."секс,голая,голый,порно,裸,裸体,色情,性爱,エロ,ヌード,全裸,섹스,누드".split(","),
] as const;

/** People below 18. */
export const MINOR_TERMS = [
  ..."child,children,childlike,kid,kiddie,minor,underage,under age,underaged,preteen,pre teen,tween,teen,teenage,teenager,adolescent".split(
    ",",
  ),
  ..."toddler,infant,baby,newborn,schoolgirl,schoolboy,school girl,school boy,schoolchild,schoolchildren,pupil,kindergarten".split(","),
  ..."kindergartener,kindergartner,elementary school,middle school,high school,primary school,middle schooler,high schooler".split(","),
  ..."little girl,little boy,young girl,young boy,small girl,small boy,girl child,boy child,jailbait,loli,lolita,lolicon,shota".split(","),
  ..."shotacon,pedo,pedophile,pedophilia,paedophile,pubescent,prepubescent,pre pubescent,cub,juvenile".split(","),
  ..."kind,kinder,madchen,junge,enfant,fillette,bambina,bambino,nina,nino,menina,menino,девочка,мальчик,ребенок".split(","),
  ..."小孩,儿童,兒童,幼女,少女,萝莉,蘿莉,女児,子供,ロリ,ショタ,소녀,어린이,아동".split(","),
] as const;

/** In a negative prompt they make what is shown younger. */
export const AGE_TERMS = ["adult", "mature", "grown", "grown up", "old", "older", "aged", "milf", "woman", "man", "women", "men"] as const;

/** Words that ask for somebody's likeness. */
export const CELEBRITY_TERMS = [
  ..."celebrity,celebrities,famous actor,famous actress,famous singer,deepfake,deep fake,face swap,faceswap,lookalike,look alike".split(
    ",",
  ),
  ..."in the likeness of,likeness of,my ex,my ex girlfriend,my ex boyfriend,my ex wife,my ex husband,my coworker,my classmate,my neighbor"
    .split(","),
] as const;

/** Names that are typed often. The operator extends this list. */
export const REAL_NAMES = [
  ..."taylor swift,emma watson,scarlett johansson,ariana grande,billie eilish,selena gomez,kim kardashian,beyonce,rihanna".split(","),
  ..."margot robbie,gal gadot,zendaya,jennifer lawrence,natalie portman,angelina jolie,brad pitt,tom cruise,leonardo dicaprio".split(","),
  ..."keanu reeves,ryan gosling,tom holland,millie bobby brown,emma stone,anne hathaway,megan fox,sydney sweeney,jenna ortega".split(","),
  ..."donald trump,joe biden,barack obama,michelle obama,kamala harris,hillary clinton,vladimir putin,xi jinping,narendra modi".split(","),
  ..."emmanuel macron,angela merkel,olaf scholz,keir starmer,rishi sunak,volodymyr zelensky,kim jong un,pope francis,king charles".split(
    ",",
  ),
  ..."kate middleton,prince william,prince harry,meghan markle,elon musk,mark zuckerberg,jeff bezos,bill gates,greta thunberg".split(","),
  ..."cristiano ronaldo,lionel messi,lebron james,serena williams,michael jordan,justin bieber,harry styles,dua lipa,lady gaga".split(","),
] as const;
